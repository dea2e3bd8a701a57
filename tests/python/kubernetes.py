"""Checks the Kubernetes objects that kustomize built: against the schemas of a current Kubernetes if they have the kind, the
objects of the Prometheus Operator by their structure, and all objects for consistency with each other.

    kubernetes.py core BUILT.yaml [PROBE_BASE_URL]    the objects of deploy/kubernetes
    kubernetes.py operator BUILT.yaml CORE.yaml RULES.yml    those of deploy/kubernetes/prometheus-operator
    kubernetes.py configuration BUILT.yaml DIRECTORY  writes the files that the pod mounts into DIRECTORY
"""

import pathlib
import sys
import tomllib
import urllib.request

import kubernetes_validate
import yaml

VERSION = kubernetes_validate.latest_version()
NAMESPACE = "kfwatch"


def load(path):
    return [document for document in yaml.safe_load_all(pathlib.Path(path).read_text()) if document]


def of_kind(objects, kind):
    return [found for found in objects if found["kind"] == kind]


def the(objects, kind):
    found = of_kind(objects, kind)
    assert len(found) == 1, f"{len(found)} objects of kind {kind}"
    return found[0]


def selects(selector, labels):
    return bool(selector) and selector.items() <= labels.items()


def check_schemas(objects):
    for document in objects:
        kubernetes_validate.validate(document, VERSION, strict=True)


def check_pod(stateful_set):
    template = stateful_set["spec"]["template"]
    pod = template["spec"]
    assert stateful_set["spec"]["replicas"] == 1, "one daemon a store"
    assert selects(stateful_set["spec"]["selector"]["matchLabels"], template["metadata"]["labels"])
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["terminationGracePeriodSeconds"] > 10, "shorter than shutdown_timeout"
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True and security["runAsUser"] == security["fsGroup"] == 65532
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert ":" in container["image"].rsplit("/", 1)[-1], "the image has no tag"
    assert not container["image"].endswith(":latest")
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    claimed = {claim["metadata"]["name"] for claim in stateful_set["spec"]["volumeClaimTemplates"]}
    given = {volume["name"] for volume in pod["volumes"]} | claimed
    assert mounted == given, f"mounted {mounted}, given {given}"
    return container


def check_services(objects, stateful_set):
    labels = stateful_set["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in stateful_set["spec"]["template"]["spec"]["containers"][0]["ports"]}
    services = of_kind(objects, "Service")
    for service in services:
        assert selects(service["spec"]["selector"], labels), service["metadata"]["name"]
        assert all(port["targetPort"] in ports for port in service["spec"]["ports"])
    headless = [service["metadata"]["name"] for service in services if service["spec"].get("clusterIP") == "None"]
    assert headless == [stateful_set["spec"]["serviceName"]]
    policy = the(objects, "NetworkPolicy")["spec"]
    assert selects(policy["podSelector"]["matchLabels"], labels)
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["metrics"]
    assert all(rule.get("from") for rule in policy["ingress"]), "anybody may come in"
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 443}


def check_references(objects, stateful_set):
    volumes = stateful_set["spec"]["template"]["spec"]["volumes"]
    configured = {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
    assert configured == {the(objects, "ConfigMap")["metadata"]["name"]}
    assert not of_kind(objects, "Secret"), "secrets are created by hand, not kept here"
    for document in objects:
        of_namespace = document["metadata"].get("namespace", document["metadata"]["name"])
        assert of_namespace == NAMESPACE, document["metadata"]


def check_room(objects, stateful_set):
    """Checks that the volume has room for the store, the copy that a migration makes, and the sinks' files."""
    [claim] = stateful_set["spec"]["volumeClaimTemplates"]
    size = claim["spec"]["resources"]["requests"]["storage"]
    assert size.endswith("Gi"), size
    room = int(size.removesuffix("Gi")) << 30
    configured = tomllib.loads(the(objects, "ConfigMap")["data"]["config.toml"])
    store = configured["store"]["event_log_max_bytes"]
    assert 2 * store < room, f"a volume of {size} is too small for twice {store} bytes: see config.toml"


def check_probes(container, base_url):
    probes = [container[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")]
    names = {port["name"] for port in container["ports"]}
    assert all(probe["port"] in names for probe in probes)
    for path in {probe["path"] for probe in probes} if base_url else ():
        with urllib.request.urlopen(base_url + path, timeout=10) as answer:
            assert answer.status == 200, path


def core(built, base_url=None):
    objects = load(built)
    check_schemas(objects)
    stateful_set = the(objects, "StatefulSet")
    container = check_pod(stateful_set)
    check_services(objects, stateful_set)
    check_references(objects, stateful_set)
    check_room(objects, stateful_set)
    check_probes(container, base_url)
    print(f"{len(objects)} objects are valid for Kubernetes {VERSION} and consistent with each other")


def operator(built, core_built, rules):
    objects = load(built)
    assert {document["kind"] for document in objects} == {"ServiceMonitor", "PrometheusRule"}
    for document in objects:
        assert document["apiVersion"] == "monitoring.coreos.com/v1"
        assert document["metadata"]["namespace"] == NAMESPACE
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    check_monitor(the(objects, "ServiceMonitor")["spec"], load(core_built))
    [shipped] = load(rules)
    assert the(objects, "PrometheusRule")["spec"] == shipped, (
        "prometheusrule.yaml is not made of kfwatch.rules.yml: run prometheusrule.sh"
    )
    alerts = sum("alert" in rule for group in shipped["groups"] for rule in group["rules"])
    print(f"the ServiceMonitor finds its Service, and the PrometheusRule has the {alerts} alerts of the rules")


def check_monitor(monitor, objects):
    assert set(monitor) == {"jobLabel", "selector", "namespaceSelector", "endpoints"}
    assert monitor["namespaceSelector"] == {"matchNames": [NAMESPACE]}
    selected = [
        service
        for service in of_kind(objects, "Service")
        if selects(monitor["selector"]["matchLabels"], service["metadata"]["labels"])
    ]
    assert len(selected) == 1, f"{len(selected)} Services would be scraped"
    labels = selected[0]["metadata"]["labels"]
    assert labels[monitor["jobLabel"]] == "kfwatch", "the alerts look for job=\"kfwatch\""
    [endpoint] = monitor["endpoints"]
    assert set(endpoint) == {"port", "path", "interval", "scrapeTimeout", "relabelings"}
    assert endpoint["port"] in {port["name"] for port in selected[0]["spec"]["ports"]}
    assert {
        "sourceLabels": ["__meta_kubernetes_pod_name"],
        "targetLabel": "instance",
    } in endpoint["relabelings"], "instance is the pod's name"
    known = {"sourceLabels", "targetLabel", "action", "regex"}
    assert all(set(relabeling) <= known for relabeling in endpoint["relabelings"])


def configuration(built, directory):
    for name, text in the(load(built), "ConfigMap")["data"].items():
        pathlib.Path(directory, name).write_text(text)


if __name__ == "__main__":
    {"core": core, "operator": operator, "configuration": configuration}[sys.argv[1]](*sys.argv[2:])
