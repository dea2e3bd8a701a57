"""Checks the Kubernetes objects that kustomize built: against the schemas of three versions of Kubernetes if they have the kind,
the objects of the Prometheus Operator by their structure, and all objects for consistency with each other.

    kubernetes.py base BUILT.yaml [PROBE_BASE_URL]          the objects of deploy/kubernetes/base
    kubernetes.py overlay BUILT.yaml NAMESPACE OVERLAY      all objects of the overlay in the directory OVERLAY
    kubernetes.py namespace NAMESPACE.yaml                  the Namespace, which no overlay has
    kubernetes.py receivers BUILT.yaml                      that alerts reach people, once the overlay's patch is uncommented
    kubernetes.py accounts BUILT.yaml                       that a thousand official accounts fit into one ConfigMap and one Secret
    kubernetes.py prometheus BUILT.yaml NAMESPACE DIRECTORY writes a Prometheus configuration with the monitor's relabeling
    kubernetes.py targets FOUND.json NAMESPACE BUILT.yaml   what promtool made of that configuration
    kubernetes.py configuration BUILT.yaml DIRECTORY        writes the files that the pod mounts into DIRECTORY
    kubernetes.py variables BUILT.yaml DIRECTORY            writes the variables of two pods into DIRECTORY/1 and DIRECTORY/2
"""

import base64
import json
import pathlib
import re
import sys
import tomllib
import urllib.request

import kubernetes_validate
import yaml

# Oldest to newest.
VERSIONS = ["1.25", "1.31", kubernetes_validate.latest_version()]
# Pods that call no API need no other kind, above all no Role.
KINDS = {"StatefulSet", "Service", "NetworkPolicy"}
CLUSTER_KINDS = {"Deployment", "PodDisruptionBudget", "Service", "NetworkPolicy"}
POSTGRES_PORT = 5432
OPERATOR = "monitoring.coreos.com"
# The API server's limits: of the data of a ConfigMap or a Secret, and of all annotations of an object. kubectl apply stores the
# whole object as an annotation.
DATA_LIMIT = 1 << 20
ANNOTATIONS_LIMIT = 256 << 10


# kustomize writes the matcher "=" without quotes. PyYAML knows it as a special value of YAML 1.1; kubectl reads it as text.
yaml.SafeLoader.add_constructor("tag:yaml.org,2002:value", yaml.SafeLoader.construct_yaml_str)


def load(path):
    return [document for document in yaml.safe_load_all(pathlib.Path(path).read_text()) if document]


def of_kind(objects, kind):
    return [found for found in objects if found["kind"] == kind]


def the(objects, kind, name="kfwatch"):
    found = [document for document in of_kind(objects, kind) if document["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} objects {kind} {name}"
    return found[0]


def workload(objects):
    """Returns the StatefulSet, or the Deployment of a cluster."""
    [found] = of_kind(objects, "StatefulSet") + of_kind(objects, "Deployment")
    assert found["metadata"]["name"] == "kfwatch"
    return found


def is_cluster(objects):
    return workload(objects)["kind"] == "Deployment"


def selects(selector, labels):
    return bool(selector) and selector.items() <= labels.items()


def is_of_operator(document):
    return document["apiVersion"].startswith(OPERATOR + "/")


def check_schemas(objects):
    for document in objects:
        if is_of_operator(document):
            assert set(document) == {"apiVersion", "kind", "metadata", "spec"}, document["metadata"]
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


def check_pod(controller):
    template = controller["spec"]["template"]
    pod = template["spec"]
    assert (controller["spec"]["replicas"] == 1) == (controller["kind"] == "StatefulSet"), "one daemon a store"
    assert selects(controller["spec"]["selector"]["matchLabels"], template["metadata"]["labels"])
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
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    claimed = {claim["metadata"]["name"] for claim in controller["spec"].get("volumeClaimTemplates", [])}
    given = {volume["name"] for volume in pod["volumes"]} | claimed
    assert mounted == given, f"mounted {mounted}, given {given}"
    assert not any("subPath" in mount for mount in container["volumeMounts"]), "never updated in a running pod"
    return container


def check_services(objects, controller):
    labels = controller["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in controller["spec"]["template"]["spec"]["containers"][0]["ports"]}
    services = of_kind(objects, "Service")
    for service in services:
        assert selects(service["spec"]["selector"], labels), service["metadata"]["name"]
        assert all(port["targetPort"] in ports for port in service["spec"]["ports"])
    headless = [service["metadata"]["name"] for service in services if service["spec"].get("clusterIP") == "None"]
    assert headless == ([] if is_cluster(objects) else [controller["spec"]["serviceName"]])
    policy = the(objects, "NetworkPolicy")["spec"]
    assert selects(policy["podSelector"]["matchLabels"], labels)
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["metrics"]
    assert all(rule.get("from") for rule in policy["ingress"]), "anybody may come in"
    ports = {53, 443, POSTGRES_PORT} if is_cluster(objects) else {53, 443}
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == ports


def check_probes(container, base_url):
    paths = {"startupProbe": "/-/live", "livenessProbe": "/-/live", "readinessProbe": "/-/ready"}
    probes = [container[kind]["httpGet"] for kind in paths]
    assert [probe["path"] for probe in probes] == list(paths.values())
    liveness = container["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] == 60, "not as long as WatchdogSec of the unit"
    names = {port["name"] for port in container["ports"]}
    assert all(probe["port"] in names for probe in probes)
    for path in {probe["path"] for probe in probes} if base_url else ():
        with urllib.request.urlopen(base_url + path, timeout=10) as answer:
            assert answer.status == 200, path


def base(built, base_url=None):
    objects = load(built)
    check_schemas(objects)
    assert {document["kind"] for document in objects} == KINDS
    assert not any("namespace" in document["metadata"] for document in objects), "not for any namespace"
    stateful_set = the(objects, "StatefulSet")
    container = check_pod(stateful_set)
    check_services(objects, stateful_set)
    check_probes(container, base_url)
    print(f"{len(objects)} objects are valid for Kubernetes {', '.join(VERSIONS)} and consistent with each other")


def sources(volume):
    """Yields the (kind, name) of each ConfigMap and Secret of a volume."""
    for source in volume.get("projected", {}).get("sources", [volume]):
        if "configMap" in source:
            yield "ConfigMap", source["configMap"]["name"]
        if "secret" in source:
            yield "Secret", source["secret"].get("secretName") or source["secret"]["name"]


def volume_of(objects, name):
    [found] = [v for v in workload(objects)["spec"]["template"]["spec"]["volumes"] if v["name"] == name]
    return found


def mounted_files(objects):
    """Returns the files in /etc/kfwatch of the pod."""
    files = {}
    for kind, name in sources(volume_of(objects, "config")):
        data = the(objects, kind, name)["data"]
        assert not files.keys() & data.keys(), "two ConfigMaps have a file of the same name"
        files |= data
    return files


def check_files(objects, directory):
    """Checks that the pod has the files of the overlay, and that secrets are not among the objects."""
    files = mounted_files(objects)
    for name, text in files.items():
        assert text == (directory / name).read_text(), f"{name} is not the overlay's"
    assert {path.name for path in directory.glob("*.toml")} == set(files)
    assert not of_kind(objects, "Secret"), "secrets are created by hand, not kept here"
    assert "Secret" in dict(sources(volume_of(objects, "secrets"))), "no Secret is mounted"


def check_reload(objects, config):
    """Checks that changed files reach the running pod, and that kfwatch looks for them."""
    volumes = workload(objects)["spec"]["template"]["spec"]["volumes"]
    hashed = [name for volume in volumes for _, name in sources(volume) if re.search("-[0-9a-z]{10}$", name)]
    assert not hashed, f"a change would be a new pod: {hashed}"
    assert config["reload_interval"], "the file in the pod would change without effect"


def check_room(objects, config):
    """Checks that the volume has room for the store, the copy that a migration makes, and the sinks' files."""
    [claim] = the(objects, "StatefulSet")["spec"]["volumeClaimTemplates"]
    size = claim["spec"]["resources"]["requests"]["storage"]
    assert size.endswith("Gi"), size
    room = int(size.removesuffix("Gi")) << 30
    store = config["store"]["event_log_max_bytes"]
    assert 2 * store < room, f"a volume of {size} is too small for twice {store} bytes: see config.toml"


def check_cluster(objects, config):
    """Checks that pods keep nothing, that one of them always runs, and that they differ where they must."""
    deployment = the(objects, "Deployment")["spec"]
    pod = deployment["template"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    update = deployment["strategy"]["rollingUpdate"]
    assert update == {"maxUnavailable": 1, "maxSurge": 0} and deployment["replicas"] >= 2, update
    # The longest takeover of released shards takes two seconds, and at most eight shards move with a heartbeat.
    assert deployment["minReadySeconds"] >= 2 + 64 / 8
    budget = the(objects, "PodDisruptionBudget")["spec"]
    assert budget == {"maxUnavailable": 1, "selector": deployment["selector"]}, budget
    [spread] = pod["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname" and spread["whenUnsatisfiable"] == "ScheduleAnyway"
    assert selects(spread["labelSelector"]["matchLabels"], labels), "it counts other pods"
    assert "volumeClaimTemplates" not in deployment
    assert {volume["name"]: volume for volume in pod["volumes"]}["run"] == {"name": "run", "emptyDir": {}}
    [container] = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"run": "/run/kfwatch", "config": "/etc/kfwatch", "secrets": "/run/secrets/kfwatch"}, mounts
    store = config["store"]
    assert store["backend"] == "postgresql" and not {"url", "url_env", "path"} & set(store), store
    assert store["url_file"].startswith(mounts["secrets"]), "the URL contains a password"
    assert "cluster" not in config and "control" not in config, "all pods have this file"
    assert not [sink for sink in config["sinks"] if sink["type"] == "jsonl"], "nothing keeps a file of a pod"


def check_sizes(objects):
    """Checks that kubectl apply can create each object."""
    for document in objects:
        data = sum(len(text.encode()) for text in document.get("data", {}).values())
        assert data <= DATA_LIMIT, document["metadata"]
        applied = annotation_size(document)
        assert applied <= ANNOTATIONS_LIMIT, f"{document['metadata']['name']}: an annotation of {applied} bytes"


def annotation_size(document):
    """Returns the size of the object as kubectl writes it: compact, with <, > and & as six characters each."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode()) + 5 * sum(map(text.count, "<>&"))


def check_dashboards(objects):
    dashboards = {
        path.name: path.read_text() for path in sorted(pathlib.Path("deploy/grafana/dashboards").glob("*.json"))
    }
    found = {}
    for document in of_kind(objects, "ConfigMap"):
        if document["metadata"].get("labels", {}).get("grafana_dashboard") == "1":
            found |= document["data"]
    assert found == dashboards, f"the dashboards are {set(dashboards)}, the ConfigMaps have {set(found)}"
    return len(found)


def check_operator(objects):
    kinds = {document["kind"] for document in filter(is_of_operator, objects)}
    monitor = "PodMonitor" if is_cluster(objects) else "ServiceMonitor"
    assert kinds == {monitor, "PrometheusRule", "AlertmanagerConfig"}, kinds
    [shipped] = load("deploy/prometheus/kfwatch.rules.yml")
    assert the(objects, "PrometheusRule")["spec"] == shipped, (
        "prometheusrule.yaml is not made of kfwatch.rules.yml: run prometheusrule.sh"
    )
    if is_cluster(objects):
        check_pod_monitor(objects)
    else:
        check_service_monitor(objects)


def check_pod_monitor(objects):
    monitor = the(objects, "PodMonitor")["spec"]
    keys = {"jobLabel", "selector", "podMetricsEndpoints"}
    assert set(monitor) == keys, "a namespaceSelector would be for one namespace"
    template = workload(objects)["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert selects(monitor["selector"]["matchLabels"], labels), "no pod would be scraped"
    assert labels[monitor["jobLabel"]] == "kfwatch", 'the alerts look for job="kfwatch"'
    [shipped] = load("deploy/kubernetes/prometheus-operator/servicemonitor.yaml")
    assert monitor["podMetricsEndpoints"] == shipped["spec"]["endpoints"], "not scraped as by the ServiceMonitor"
    [endpoint] = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in template["spec"]["containers"][0]["ports"]}


def check_service_monitor(objects):
    monitor = the(objects, "ServiceMonitor")["spec"]
    assert set(monitor) == {"jobLabel", "selector", "endpoints"}, "a namespaceSelector would be for one namespace"
    selected = [
        service
        for service in of_kind(objects, "Service")
        if selects(monitor["selector"]["matchLabels"], service["metadata"]["labels"])
    ]
    assert len(selected) == 1, f"{len(selected)} Services would be scraped"
    assert selected[0]["metadata"]["labels"][monitor["jobLabel"]] == "kfwatch", 'the alerts look for job="kfwatch"'
    [endpoint] = monitor["endpoints"]
    assert set(endpoint) == {"port", "path", "interval", "scrapeTimeout", "relabelings"}
    assert endpoint["port"] in {port["name"] for port in selected[0]["spec"]["ports"]}


def overlay(built, namespace, directory):
    objects = load(built)
    directory = pathlib.Path(directory)
    settings = yaml.safe_load((directory / "kustomization.yaml").read_text())
    check_schemas(objects)
    kinds = {document["kind"] for document in objects if not is_of_operator(document)}
    assert kinds == (CLUSTER_KINDS if is_cluster(objects) else KINDS) | {"ConfigMap"}, kinds
    for document in objects:
        assert document["metadata"].get("namespace") == namespace, document["metadata"]
    check_files(objects, directory)
    config = tomllib.loads(mounted_files(objects)["config.toml"])
    check_reload(objects, config)
    if is_cluster(objects):
        check_cluster(objects, config)
    else:
        check_room(objects, config)
    check_sizes(objects)
    [image] = settings["images"]
    controller = workload(objects)
    container = check_pod(controller)
    check_services(objects, controller)
    check_probes(container, None)
    assert container["image"] == f"{image['newName']}:{image['newTag']}" and image["newTag"] != "latest"
    [ingress] = the(objects, "NetworkPolicy")["spec"]["ingress"]
    assert ingress["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    check_operator(objects)
    dashboards = check_dashboards(objects)
    for document in filter(is_of_operator, objects):
        assert document["metadata"]["labels"].get("release"), document["kind"]
    print(f"{directory}: {len(objects)} objects in {namespace}, of which {dashboards} dashboards")


def namespace(path):
    [document] = load(path)
    check_schemas([document])
    overlay_of = yaml.safe_load(pathlib.Path(path).with_name("kustomization.yaml").read_text())
    assert document["metadata"]["name"] == overlay_of["namespace"]
    assert document["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def accounts(built):
    objects = load(built)
    name, first = next(item for item in mounted_files(objects).items() if item[0].startswith("accounts-"))
    account = first[first.index("[[") : first.index("\n[[", first.index("[[") + 1)]
    [config_map] = [found for found in of_kind(objects, "ConfigMap") if name in found.get("data", {})]
    config_map["data"] = {name: account * 1000}
    check_sizes([config_map])
    secrets = {f"merchant-{number:04}.secret": base64.b64encode(b"0" * 33).decode() for number in range(1000)}
    size = annotation_size({"apiVersion": "v1", "kind": "Secret", "data": secrets})
    assert size < ANNOTATIONS_LIMIT
    print(f"1,000 official accounts: an annotation of {annotation_size(config_map)} bytes, and of {size} for their Secret")


def receivers(built):
    """Checks that every receiver but nobody has an integration, and that the routes name no other receivers."""
    spec = the(load(built), "AlertmanagerConfig")["spec"]
    reached = {receiver["name"] for receiver in spec["receivers"] if receiver.keys() - {"name"}}
    routes = [spec["route"], *spec["route"]["routes"]]
    assert reached == {route["receiver"] for route in routes if "receiver" in route} - {"nobody"}, reached
    print(f"alerts reach {', '.join(sorted(reached))}")


def snake_case(relabeling):
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    return {names.get(key, key): value for key, value in relabeling.items()}


def pods(objects):
    """Returns names of its pods as Kubernetes makes them."""
    controller = workload(objects)
    suffixes = ["6d4b75cb6d-2xk9z", "6d4b75cb6d-hs5vq"] if is_cluster(objects) else ["0"]
    return [f"{controller['metadata']['name']}-{suffix}" for suffix in suffixes]


def discovered(namespace, pod):
    """Returns the labels of a target as Prometheus discovers them, of a pod and of its Service."""
    return {
        "__meta_kubernetes_namespace": namespace,
        "__meta_kubernetes_pod_name": pod,
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_container_name": "kfwatch",
        "__meta_kubernetes_pod_label_app_kubernetes_io_name": "kfwatch",
        "__meta_kubernetes_service_name": "kfwatch",
        "__meta_kubernetes_service_label_app_kubernetes_io_name": "kfwatch",
    }


def prometheus(built, namespace, directory):
    """Writes what the operator makes of the monitor, except that a file replaces the discovery in Kubernetes."""
    objects = load(built)

    def copied(source, target):
        return {"source_labels": [f"__meta_kubernetes_{source}"], "target_label": target}

    relabelings = [
        copied("namespace", "namespace"),
        copied("pod_name", "pod"),
        copied("pod_container_name", "container"),
    ]
    if is_cluster(objects):
        [endpoint] = the(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
        relabelings.append(copied("pod_label_app_kubernetes_io_name", "job"))
    else:
        [endpoint] = the(objects, "ServiceMonitor")["spec"]["endpoints"]
        relabelings += [copied("service_name", "service"), copied("service_label_app_kubernetes_io_name", "job")]
    relabelings.append({"target_label": "endpoint", "replacement": endpoint["port"]})
    targets = [
        {"targets": [f"10.0.0.{number}:9877"], "labels": discovered(namespace, pod)}
        for number, pod in enumerate(pods(objects), start=1)
    ]
    pathlib.Path(directory, "targets.json").write_text(json.dumps(targets))
    job = {
        "job_name": "kfwatch",
        "file_sd_configs": [{"files": [f"{directory}/targets.json"]}],
        "relabel_configs": relabelings + [snake_case(found) for found in endpoint["relabelings"]],
    }
    pathlib.Path(directory, "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [job]}))


def targets(found, namespace, built):
    """Checks that series of a pod have the namespace and the pod as their instance, and no other labels of Kubernetes."""
    labels = [
        {name: value for name, value in target["labels"].items() if not name.startswith("__")}
        for target in json.loads(pathlib.Path(found).read_text())
    ]
    wanted = [
        {"job": "kfwatch", "namespace": namespace, "instance": f"{namespace}/{pod}"} for pod in pods(load(built))
    ]
    assert sorted(labels, key=str) == sorted(wanted, key=str), labels
    print(f"the targets have the labels {labels}")


def variables_of(container, fields):
    """Returns the variables of a container in the pod with these fields. $(NAME) stands for a variable before."""
    values = {}
    for variable in container["env"]:
        if "valueFrom" in variable:
            value = fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        else:
            value = re.sub(r"\$\((\w+)\)", lambda name: values[name[1]], variable["value"])
        values[variable["name"]] = value
    return values


def variables(built, directory):
    objects = load(built)
    [container] = workload(objects)["spec"]["template"]["spec"]["containers"]
    for number, pod in enumerate(pods(objects), start=1):
        values = variables_of(container, {"metadata.name": pod, "status.podIP": f"10.0.0.{number}"})
        pathlib.Path(directory, str(number), "variables.json").write_text(json.dumps(values))


def configuration(built, directory):
    for name, text in mounted_files(load(built)).items():
        pathlib.Path(directory, name).write_text(text)


if __name__ == "__main__":
    commands = [base, overlay, namespace, receivers, accounts, prometheus, targets, configuration, variables]
    {command.__name__: command for command in commands}[sys.argv[1]](*sys.argv[2:])
