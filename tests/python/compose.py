"""Checks deploy/docker/compose.yaml after docker-compose or docker compose has resolved it.

    compose.py services RESOLVED.yaml REPOSITORY         each service's settings, and that what it mounts exists
    compose.py prometheus OURS.yml SHIPPED.yml           that the two differ only in addresses
"""

import pathlib
import re
import sys

import dockerfile
import yaml

SERVICES = {"kfwatch", "demo", "prometheus", "alertmanager", "alertmanager-demo", "grafana"}
PROFILES = {"kfwatch": ["watch"], "demo": ["demo"], "alertmanager": ["watch"], "alertmanager-demo": ["demo"]}
# The services of the demo that have the network name of another service, and that name.
STAND_INS = {"demo": "kfwatch", "alertmanager-demo": "alertmanager"}
# What the shell or .env may set, and its value otherwise.
BUILD_ARGUMENTS = {"REVISION": "unknown", "DOCKER_MIRROR": "docker.io", "DEBIAN_MIRROR": "", "CRATES_MIRROR": ""}
# Created by the user, not part of the repository.
BY_HAND = {"deploy/docker/secrets/shop.secret"}


def load(path):
    return yaml.safe_load(pathlib.Path(path).read_text())


def bind_mounts(service):
    """Yields (host path, container path, read only) of each bind mount: docker-compose writes strings, docker compose objects."""
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            source, target, mode = (volume.split(":") + ["rw"])[:3]
            if source.startswith("/"):
                yield source, target, "ro" in mode.split(",")
        elif volume["type"] == "bind":
            yield volume["source"], volume["target"], volume.get("read_only", False)


def published(service):
    """Yields the host addresses of its ports."""
    for port in service["ports"]:
        yield port.split(":")[0] if isinstance(port, str) else port.get("host_ip")


def check_service(name, service):
    assert service["read_only"] is True, name
    assert service["cap_drop"] == ["ALL"], name
    assert service["security_opt"] == ["no-new-privileges:true"], name
    assert service["restart"] == "unless-stopped", name
    assert not service.get("privileged") and "network_mode" not in service, name
    assert service["mem_limit"], name
    assert service.get("profiles", []) == PROFILES.get(name, []), name
    assert set(published(service)) == {"127.0.0.1"}, f"{name} is published beyond this machine"
    tag = service["image"].rsplit("/", 1)[-1].partition(":")[2]
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), f"{name}: {service['image']} is not pinned"
    if "build" in service:
        assert service["user"] == "65532:65532", name
        assert service["build"]["args"] == BUILD_ARGUMENTS, service["build"]
    else:
        assert service["image"].startswith("docker.io/"), f"{name}: DOCKER_MIRROR does not replace {service['image']}"
    assert all(read_only for _, _, read_only in bind_mounts(service)), f"{name} could write to the repository"


def check_paths(config, repository):
    paths = {source for service in config["services"].values() for source, _, _ in bind_mounts(service)}
    paths |= {secret["file"] for secret in config["secrets"].values()}
    for service in config["services"].values():
        if "build" in service:
            paths.add(str(pathlib.Path(service["build"]["context"], service["build"]["dockerfile"])))
    missing = [
        path
        for path in sorted(paths)
        if not pathlib.Path(path).exists() and str(pathlib.Path(path).relative_to(repository)) not in BY_HAND
    ]
    assert not missing, f"not in the repository: {missing}"
    return len(paths)


def check_grafana(service, repository):
    """Checks that the variable that the provisioned data source reads is set."""
    text = "".join(
        path.read_text() for path in pathlib.Path(repository, "deploy/grafana/provisioning").rglob("*.y*ml")
    )
    read = set(re.findall(r"\$\{?(KFWATCH_\w+|PROMETHEUS_\w+)", text))
    environment = service["environment"]
    unset = read - set(environment)
    assert read and not unset, f"the data source reads {read}, but {unset} are not set"
    dashboards = {target for _, target, _ in bind_mounts(service)}
    assert any(directory in text for directory in dashboards), f"no provider reads {dashboards}"


def check_health(services):
    """Checks that kfwatch has the health check of the image, and that the demo, which has no configuration, has none."""
    [image] = [command for command in dockerfile.parse_file("deploy/docker/Dockerfile") if command.cmd == "HEALTHCHECK"]
    ours = services["kfwatch"]["healthcheck"]
    flags = {f"--{key.replace('_', '-')}={ours[key]}" for key in ("start_period", "interval", "timeout", "retries")}
    # docker compose writes 10m0s for 10m.
    assert {flag.replace("m0s", "m") for flag in flags} == set(image.flags), (flags, image.flags)
    assert ours["test"] == ["CMD", *image.value[1:]] == ["CMD", "/usr/bin/kfwatch", "health"], (ours, image.value)
    # What docker-compose and docker compose make of "disable".
    assert services["demo"]["healthcheck"] in ({"test": ["NONE"]}, {"disable": True}), services["demo"]["healthcheck"]


def check_configuration(service):
    """Checks that the directory of the configuration is mounted. A file that is mounted alone stays the old one in the container when
    an editor replaces it, and a reload would find no change."""
    [(source, target, _)] = bind_mounts(service)
    assert target == "/etc/kfwatch" and pathlib.Path(source, "config.toml").is_file(), (source, target)


def check_silence(service):
    """Checks that the demo's Alertmanager reads only a configuration that cannot send anything."""
    [(source, target, _)] = bind_mounts(service)
    assert f"--config.file={target}" in service["command"], target
    config = load(source)
    assert set(config) == {"route", "receivers"} and config["receivers"] == [{"name": "nobody"}], f"{source} may send"


def services(resolved, repository):
    config = load(resolved)
    assert set(config["services"]) == SERVICES
    for name, service in config["services"].items():
        check_service(name, service)
    for name, replaced in STAND_INS.items():
        network = config["services"][name]["networks"]["default"]
        assert network == {"aliases": [replaced]}, f"Prometheus would not find {name}"
    check_health(config["services"])
    check_configuration(config["services"]["kfwatch"])
    check_silence(config["services"]["alertmanager-demo"])
    found = check_paths(config, repository)
    check_grafana(config["services"]["grafana"], repository)
    print(f"{len(SERVICES)} services are hardened, and their {found} host paths exist or are created by the user")


def without_addresses(config):
    """Returns the configuration without addresses and without the directories of rule files."""
    for jobs in (config.get("scrape_configs", []), config.get("alerting", {}).get("alertmanagers", [])):
        for job in jobs:
            for static in job.get("static_configs", []):
                static["targets"] = [target.rpartition(":")[2] for target in static["targets"]]
    config["rule_files"] = [pathlib.PurePath(name).name for name in config["rule_files"]]
    return config


def prometheus(ours, shipped):
    assert without_addresses(load(ours)) == without_addresses(load(shipped)), f"{ours} differs from {shipped}"
    print("Prometheus is configured as shipped, except for addresses")


if __name__ == "__main__":
    {"services": services, "prometheus": prometheus}[sys.argv[1]](*sys.argv[2:])
