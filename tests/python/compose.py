"""Checks deploy/docker/compose.yaml after docker-compose or docker compose has resolved it.

    compose.py services RESOLVED.yaml REPOSITORY         each service's settings, and that what it mounts exists
    compose.py initdb RESOLVED.yaml                      prints the arguments of initdb
    compose.py variables RESOLVED.yaml DIRECTORY         writes the variables of both replicas into DIRECTORY/1 and DIRECTORY/2
    compose.py prometheus OURS.yml SHIPPED.yml SERVICE...  that OURS scrapes these, and that the two differ only in addresses
"""

import json
import pathlib
import re
import sys

import dockerfile
import yaml

# The profiles of each service. Grafana runs in all of them.
PROFILES = {
    "kfwatch": {"watch"},
    "kfwatch-1": {"cluster"},
    "kfwatch-2": {"cluster"},
    "postgres": {"cluster"},
    "demo": {"demo"},
    "prometheus": {"watch", "demo"},
    "prometheus-cluster": {"cluster"},
    "alertmanager": {"watch", "cluster"},
    "alertmanager-demo": {"demo"},
    "grafana": set(),
}
REPLICAS = ["kfwatch-1", "kfwatch-2"]
# The services that have the network name of another service, and that name.
STAND_INS = {"demo": "kfwatch", "alertmanager-demo": "alertmanager", "prometheus-cluster": "prometheus"}
# What the shell or .env may set, and its value otherwise.
BUILD_ARGUMENTS = {"REVISION": "unknown", "DOCKER_MIRROR": "docker.io", "DEBIAN_MIRROR": "", "CRATES_MIRROR": ""}
# Created by the user, not part of the repository.
BY_HAND = {f"deploy/docker/secrets/{name}" for name in ("shop.secret", "database.password", "database.url")}
# The socket of PostgreSQL, in the containers of the server and of its clients.
SOCKET_VOLUME = {"postgres": "postgres-socket:/var/run/postgresql:rw"} | {
    name: "postgres-socket:/run/postgresql:ro" for name in REPLICAS
}


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
    for port in service.get("ports", []):
        yield port.split(":")[0] if isinstance(port, str) else port.get("host_ip")


def check_service(name, service):
    assert service["read_only"] is True, name
    assert service["cap_drop"] == ["ALL"], name
    assert service["security_opt"] == ["no-new-privileges:true"], name
    assert service["restart"] == "unless-stopped", name
    assert not service.get("privileged") and "network_mode" not in service, name
    assert service["mem_limit"], name
    assert set(service.get("profiles", [])) == PROFILES[name], name
    addresses = set() if name == "postgres" else {"127.0.0.1"}
    assert set(published(service)) == addresses, f"{name} is published beyond this machine"
    tag = service["image"].rsplit("/", 1)[-1].partition(":")[2]
    # Minor versions of PostgreSQL have the same files.
    pinned = r"\d+-bookworm" if name == "postgres" else r"v?\d+\.\d+\.\d+"
    assert re.fullmatch(pinned, tag), f"{name}: {service['image']} is not pinned"
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


def volumes_of(service):
    """Returns its named volumes, as docker-compose writes them."""
    for volume in service["volumes"]:
        if isinstance(volume, str):
            if not volume.startswith("/"):
                yield volume
        elif volume["type"] == "volume":
            yield f"{volume['source']}:{volume['target']}:{'ro' if volume.get('read_only') else 'rw'}"


def check_cluster(services):
    """Checks that both replicas have the same configuration and the same database, and that the password is in no variable."""
    variables = [services[name]["environment"] for name in REPLICAS]
    keys = ("KFWATCH__CLUSTER__NAME", "KFWATCH__CLUSTER__ADVERTISE")
    assert all(set(of_replica) == set(keys) for of_replica in variables), variables
    assert all(variables[0][key] != variables[1][key] for key in keys), variables
    for name, of_replica in zip(REPLICAS, variables):
        service = services[name]
        check_configuration(service)
        [port] = service["ports"]
        # docker-compose writes strings, docker compose objects.
        host_port = port.split(":")[1] if isinstance(port, str) else port["published"]
        assert of_replica["KFWATCH__CLUSTER__ADVERTISE"] == f"http://127.0.0.1:{host_port}/", "no page is there"
        assert secrets_of(service) == {"shop_secret", "database_url"}, service["secrets"]
        assert service["depends_on"]["postgres"]["condition"] == "service_healthy"
        assert service["healthcheck"] == services["kfwatch"]["healthcheck"]
        assert f"{name}:/var/lib/kfwatch:rw" in volumes_of(service), f"{name} has no volume of its own"
    assert services["kfwatch-1"]["volumes"][0] == services["kfwatch-2"]["volumes"][0], "two configurations"
    sockets = {
        name: volume
        for name, service in services.items()
        for volume in (volumes_of(service) if "volumes" in service else ())
        if volume.startswith("postgres-socket:")
    }
    assert sockets == SOCKET_VOLUME, sockets
    check_server(services["postgres"])


def check_server(server):
    environment = server["environment"]
    assert secrets_of(server) == {"database_password"}
    assert environment["POSTGRES_PASSWORD_FILE"] == "/run/secrets/database_password"
    assert not {"POSTGRES_PASSWORD", "POSTGRES_HOST_AUTH_METHOD"} & set(environment), environment
    assert "postgres:/var/lib/postgresql/data:rw" in volumes_of(server)
    # The server that initializes the volume listens on the socket only: a health check through it would succeed too early.
    assert server["command"] == ["postgres", "-c", "listen_addresses=127.0.0.1"], server["command"]
    command = server["healthcheck"]["test"]
    assert command[:2] == ["CMD", "pg_isready"] and "--host=127.0.0.1" in command, command
    assert f"--username={environment['POSTGRES_USER']}" in command and f"--dbname={environment['POSTGRES_DB']}" in command


def secrets_of(service):
    return {secret["source"] for secret in service["secrets"]}


def check_silence(service):
    """Checks that the demo's Alertmanager reads only a configuration that cannot send anything."""
    [(source, target, _)] = bind_mounts(service)
    assert f"--config.file={target}" in service["command"], target
    config = load(source)
    assert set(config) == {"route", "receivers"} and config["receivers"] == [{"name": "nobody"}], f"{source} may send"


def services(resolved, repository):
    config = load(resolved)
    assert set(config["services"]) == set(PROFILES)
    for name, service in config["services"].items():
        check_service(name, service)
    for name, replaced in STAND_INS.items():
        network = config["services"][name]["networks"]["default"]
        assert network == {"aliases": [replaced]}, f"Prometheus would not find {name}"
    check_health(config["services"])
    check_configuration(config["services"]["kfwatch"])
    check_silence(config["services"]["alertmanager-demo"])
    check_cluster(config["services"])
    found = check_paths(config, repository)
    check_grafana(config["services"]["grafana"], repository)
    print(f"{len(PROFILES)} services are hardened, and their {found} host paths exist or are created by the user")


def initdb(resolved):
    print(load(resolved)["services"]["postgres"]["environment"]["POSTGRES_INITDB_ARGS"])


def variables(resolved, directory):
    for number, name in enumerate(REPLICAS, start=1):
        text = json.dumps(load(resolved)["services"][name]["environment"])
        pathlib.Path(directory, str(number), "variables.json").write_text(text)


def without_addresses(config):
    """Returns the configuration without addresses and without the directories of rule files."""
    for jobs in (config.get("scrape_configs", []), config.get("alerting", {}).get("alertmanagers", [])):
        for job in jobs:
            for static in job.get("static_configs", []):
                static["targets"] = sorted({target.rpartition(":")[2] for target in static["targets"]})
    config["rule_files"] = [pathlib.PurePath(name).name for name in config["rule_files"]]
    return config


def scraped(path):
    """Returns the targets of a Prometheus configuration."""
    return [target for job in load(path)["scrape_configs"] for static in job["static_configs"] for target in static["targets"]]


def prometheus(ours, shipped, *services):
    wanted = [f"{service}:9877" for service in services]
    assert scraped(ours) == wanted, f"{ours} scrapes {scraped(ours)} and not {wanted}"
    assert without_addresses(load(ours)) == without_addresses(load(shipped)), f"{ours} differs from {shipped}"
    print("Prometheus is configured as shipped, except for addresses")


if __name__ == "__main__":
    commands = [services, initdb, variables, prometheus]
    {command.__name__: command for command in commands}[sys.argv[1]](*sys.argv[2:])
