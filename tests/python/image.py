"""Parses deploy/docker/Dockerfile with BuildKit's parser, and checks that the image contains only the tree that rootfs.sh
assembles, and runs as a user other than root.

    image.py TREE    the tree, assembled; prints nothing when all is well
"""

import os
import pathlib
import sys
import tomllib

import dockerfile

DOCKERFILE = "deploy/docker/Dockerfile"


def stages():
    """Returns the instructions of each stage, with FROM first."""
    found = []
    for command in dockerfile.parse_file(DOCKERFILE):
        if command.cmd == "FROM":
            found.append([])
        found[-1].append(command)
    return found


def only(commands, name):
    values = [command for command in commands if command.cmd == name]
    assert len(values) == 1, f"{name}: {values}"
    return values[0]


def assembled(build):
    """Returns the directory that rootfs.sh fills, and the program that it receives."""
    run = [command.value[0].split() for command in build if "rootfs.sh" in " ".join(command.value) and command.cmd == "RUN"]
    assert len(run) == 1, run
    assert run[0][-4:-2] == ["sh", "deploy/docker/rootfs.sh"], run[0]
    return run[0][-1]


def main(tree):
    build, final = stages()
    package = tomllib.loads(pathlib.Path("Cargo.toml").read_text())["package"]
    assert build[0].value == (f"rust:{package['rust-version']}-bookworm", "AS", "build"), build[0].value
    root = assembled(build)

    assert final[0].value == ("scratch",), final[0].value
    allowed = {"FROM", "COPY", "ARG", "LABEL", "USER", "WORKDIR", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {command.cmd for command in final} <= allowed, {command.cmd for command in final} - allowed
    copies = [command for command in final if command.cmd == "COPY"]
    assert copies[0].flags == ("--from=build",) and copies[0].value == (f"{root}/", "/"), copies[0]
    user = only(final, "USER").value[0]
    for copy in copies[1:]:
        assert copy.flags == ("--from=build", f"--chown={user}"), copy
        source, destination = copy.value
        assert source == root + destination, copy

    uid, gid = user.split(":")
    assert int(uid) != 0 and int(gid) != 0, user
    data = only(final, "VOLUME").value[0]
    found = os.stat(tree + data)
    assert (str(found.st_uid), str(found.st_gid), found.st_mode & 0o777) == (uid, gid, 0o700), found
    assert only(final, "WORKDIR").value[0] == data
    entrypoint = only(final, "ENTRYPOINT")
    assert entrypoint.json and os.access(tree + entrypoint.value[0], os.X_OK), entrypoint
    assert only(final, "CMD").value == ("run",)
    labels = only(final, "LABEL").value
    of_image = dict(zip(labels[::2], (value.strip('"') for value in labels[1::2])))
    assert of_image["org.opencontainers.image.version"] == package["version"], of_image
    assert of_image["org.opencontainers.image.licenses"] == package["license"], of_image


main(sys.argv[1])
