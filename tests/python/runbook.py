"""Checks that the alerts, errcodes, metrics and commands in deploy/runbook.md exist, and that the links and commands in
deploy/README.md are valid.

    runbook.py KFWATCH METRICS_PAGE QUERIES.yml

KFWATCH is the program and METRICS_PAGE a file with its /metrics page. The runbook's queries are written to QUERIES.yml as
rules, so that promtool can check them. Run it from the top of the repository.
"""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import yaml

RUNBOOK = pathlib.Path("deploy/runbook.md")
OVERVIEW = pathlib.Path("deploy/README.md")
RULES = pathlib.Path("deploy/prometheus/kfwatch.rules.yml")
ERRCODES = pathlib.Path("src/domain/errcode.rs")
# The metrics that only a replica of a cluster exports.
OF_CLUSTER = pathlib.Path("src/metrics/exposition/cluster.rs")
# Sections that do not belong to an alert.
OTHER_SECTIONS = {"First five minutes", "Calling WeChat by hand", "Errcodes"}
# The rules of alerts' texts about codes, and the codes that need none.
MEANINGS = "code:kfwatch_errcode:info"
NO_REASONS = {"BadRequest", "InvalidAccount", "UnboundAccount"}
OTHER_REASONS = {"timeout", "connect", "tls", "proxy", "http", "malformed", "too_large"}
# Numbers of five digits that are not errcodes.
NO_ERRCODES = set()
SUFFIXES = r"_(bucket|sum|count)$"


class Complaints(list):
    def unless(self, condition, complaint):
        if not condition:
            self.append(complaint)


def without_code(text):
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def blocks(text, language):
    """Returns the code blocks of a language, without the indentation of lists."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]


def check_alerts(sections, complaints):
    groups = yaml.safe_load(RULES.read_text())["groups"]
    alerts = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    described = set(sections) - OTHER_SECTIONS
    complaints.unless(alerts.keys() <= described, f"alerts without a section: {sorted(alerts.keys() - described)}")
    complaints.unless(described <= alerts.keys(), f"sections without an alert: {sorted(described - alerts.keys())}")
    for name, rule in alerts.items():
        url = rule["annotations"].get("runbook_url", "")
        complaints.unless(url.endswith(f"/deploy/runbook.md#{name.lower()}"), f"{name}: runbook_url is {url!r}")
    return alerts


def check_table(text, alerts, complaints):
    """Checks that the table at the top has each alert once, with its severity."""
    rows = dict(re.findall(r"^\| \[(WechatKf\w+)\]\(#\w+\) \| (\w+) \|", text, flags=re.MULTILINE))
    for name, rule in alerts.items():
        severity = rule["labels"]["severity"]
        complaints.unless(rows.get(name) == severity, f"{name} has severity {severity}, but {rows.get(name)} in the table")


def check_parts(sections, complaints):
    """Checks that each alert has all parts, and a Chinese translation."""
    for name, body in sections.items():
        if name in OTHER_SECTIONS:
            continue
        for part in ("What it means", "How to see it", "hat to do", "hen it ends"):
            complaints.unless(part in body, f"{name} lacks the part: {part}")
        chinese = len(re.findall(r"[\u4e00-\u9fff]", body))
        complaints.unless(chinese >= 40, f"{name} has {chinese} Chinese characters")


def check_links(text, sections, complaints):
    anchors = {section.lower().replace(" ", "-") for section in sections}
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if target.startswith("#"):
            complaints.unless(target[1:] in anchors, f"no section for the link {target}")
        elif not target.startswith("http"):
            complaints.unless((RUNBOOK.parent / target).exists(), f"no file for the link {target}")


def check_overview(kfwatch, complaints):
    text = OVERVIEW.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = OVERVIEW.parent / path
        if not file.exists():
            complaints.unless(False, f"{OVERVIEW}: no file for the link {target}")
        elif anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            anchors = {title.lower().replace(" ", "-") for title in titles}
            complaints.unless(anchor in anchors, f"{OVERVIEW}: no section for the link {target}")
    for script in re.findall(r"deploy/[\w/-]+\.sh", text):
        complaints.unless(pathlib.Path(script).exists(), f"{OVERVIEW}: {script} does not exist")
    return check_commands(text, kfwatch, complaints)


def check_errcodes(text, sections, complaints):
    known = set(re.findall(r"^ +(-?\d+) [A-Z_]+ [A-Z]\w+[ ;]", ERRCODES.read_text(), flags=re.MULTILINE))
    complaints.unless(len(known) > 70, f"only {len(known)} errcodes read from {ERRCODES}")
    named = set(re.findall(r"(?<![\w.-])(?:4\d|6[15]|76|89)\d{3}(?![\w.-])", without_code(text))) - NO_ERRCODES
    complaints.unless(named <= known, f"errcodes unknown to the daemon: {sorted(named - known)}")
    listed = set()
    for cell in re.findall(r"^\| ([-\d, –]+) \|", sections["Errcodes"], flags=re.MULTILINE):
        for code in cell.split(", "):
            first, _, last = code.partition("–")
            listed |= {str(number) for number in range(int(first), int(last or first) + 1)}
    complaints.unless(
        listed == known,
        f"the table of errcodes has the unknown {sorted(listed - known)} and lacks {sorted(known - listed)}",
    )
    return len(listed)


def check_reasons(complaints):
    """Checks that alerts know each code for which polls can fail. Others mean a bug, one kf account, or the quota collector."""
    rows = re.findall(r"^ +(-?\d+) ([A-Z_]+) ([A-Z]\w+)[ ;]", ERRCODES.read_text(), flags=re.MULTILINE)
    reasons = {code for code, at, error_class in rows if at != "QUOTA" and error_class not in NO_REASONS} | OTHER_REASONS
    groups = yaml.safe_load(RULES.read_text())["groups"]
    labels = [rule["labels"] for group in groups for rule in group["rules"] if rule.get("record") == MEANINGS]
    named = [row["code"] for row in labels]
    complaints.unless(
        sorted(named) == sorted(reasons),
        f"{MEANINGS}: has the unknown or repeated {sorted(set(named) - reasons)}, lacks {sorted(reasons - set(named))}",
    )
    for row in labels:
        complaints.unless(re.search(r"[\u4e00-\u9fff]", row["zh"]) and row["en"].isascii(), f"{MEANINGS}: {row}")


def check_metrics(text, page, complaints):
    families = set(re.findall(r"^# TYPE (\w+) ", pathlib.Path(page).read_text(), flags=re.MULTILINE))
    families |= set(re.findall(r'"(kfwatch_\w+)"', OF_CLUSTER.read_text()))
    named = set(re.findall(r"(?<!:)\b(?:wechat_kf|kfwatch|process)_[a-z_]+\b", text))
    unknown = {name for name in named if name not in families and re.sub(SUFFIXES, "", name) not in families}
    complaints.unless(not unknown, f"metrics that do not exist: {sorted(unknown)}")
    return len(named)


def check_commands(text, kfwatch, complaints):
    """Checks that kfwatch accepts each command with its flags. --help at the end prevents the command from running."""
    spans = re.findall(r"`(kfwatch [^`…]+)`", without_code(text))
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    tails = [found for line in lines + re.findall(r"`([^`…]+)`", text) for found in re.findall(r"(?:kfwatch|--) (kfwatch .+)$", line)]
    commands = {command for command in spans + tails + lines if re.match(r"kfwatch [a-z]+( |$)", command)}
    commands = {command for command in commands if command != "kfwatch is healthy."}
    for command in sorted(commands):
        arguments = shlex.split(command)[1:]
        ran = subprocess.run([kfwatch, *arguments, "--help"], capture_output=True, text=True, check=False)
        complaints.unless(ran.returncode == 0, f"{command}: {ran.stderr.strip()}")
    complaints.unless(commands, "no commands found")
    return len(commands)


def write_queries(text, path):
    queries = [line for block in blocks(text, "promql") for line in block.splitlines() if line]
    rules = [{"record": f"runbook:query:{number}", "expr": query} for number, query in enumerate(queries)]
    pathlib.Path(path).write_text(json.dumps({"groups": [{"name": "runbook", "rules": rules}]}))
    return len(queries)


def main(kfwatch, page, queries_file):
    text = RUNBOOK.read_text()
    found = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    sections = dict(zip(found[::2], found[1::2], strict=True))
    complaints = Complaints()
    complaints.unless(len(sections) == len(found) // 2, "two sections have the same name")
    alerts = check_alerts(sections, complaints)
    check_table(text, alerts, complaints)
    check_parts(sections, complaints)
    check_links(text, sections, complaints)
    errcodes = check_errcodes(text, sections, complaints)
    check_reasons(complaints)
    metrics = check_metrics(text, page, complaints)
    commands = check_commands(text, kfwatch, complaints) + check_overview(kfwatch, complaints)
    queries = write_queries(text, queries_file)
    for complaint in complaints:
        print(f"{RUNBOOK}: {complaint}", file=sys.stderr)
    print(
        f"{RUNBOOK}: {len(alerts)} alerts, {errcodes} errcodes, {metrics} metrics, {commands} commands, {queries} queries"
    )
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main(*sys.argv[1:])
