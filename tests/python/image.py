"""Parses deploy/docker/Dockerfile with BuildKit's parser, and checks that the image contains only the tree that rootfs.sh
assembles, and runs as a user other than root.

    image.py check TREE    the tree, assembled; prints nothing when all is well
    image.py script WORD   prints the shell script of the RUN instruction that contains WORD
"""

import os
import pathlib
import sys
import tomllib

import dockerfile

DOCKERFILE = "deploy/docker/Dockerfile"


def stages():
    """Returns the instructions before the first stage, and those of each stage, with FROM first."""
    found = [[]]
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
    command = run_with(build, "rootfs.sh")
    for flag in command.flags:
        # Programs of different platforms in one cache would replace each other.
        assert flag.startswith("--mount=type=cache,id=kfwatch-") and "-$TARGETPLATFORM,sharing=locked," in flag, flag
    words = command.value[0].split()
    assert words[-4:-2] == ["sh", "deploy/docker/rootfs.sh"], words
    return words[-1]


def run_with(build, word):
    found = [command for command in build if command.cmd == "RUN" and word in command.value[0]]
    assert len(found) == 1, f"{len(found)} instructions with {word}"
    return found[0]


def declared(build):
    """Returns the build arguments of the stage, with their defaults."""
    return dict((command.value[0] + "=").split("=")[:2] for command in build if command.cmd == "ARG")


def script(word):
    print(run_with(stages()[1], word).value[0])


def check(tree):
    before, build, final = stages()
    assert declared(before) == {"DOCKER_MIRROR": "docker.io"}
    assert set(declared(build)) == {"DEBIAN_MIRROR", "CRATES_MIRROR", "REVISION", "TARGETPLATFORM"}
    package = tomllib.loads(pathlib.Path("Cargo.toml").read_text())["package"]
    assert build[0].value == (f"${{DOCKER_MIRROR}}/library/rust:{package['rust-version']}-bookworm", "AS", "build"), build[0].value
    root = assembled(build)

    assert final[0].value == ("scratch",), final[0].value
    allowed = {"FROM", "COPY", "ARG", "LABEL", "USER", "WORKDIR", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
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
    # The image has no shell.
    assert only(final, "HEALTHCHECK").value == ("CMD", entrypoint.value[0], "health")
    labels = only(final, "LABEL").value
    of_image = dict(zip(labels[::2], (value.strip('"') for value in labels[1::2])))
    assert of_image["org.opencontainers.image.version"] == package["version"], of_image
    assert of_image["org.opencontainers.image.licenses"] == package["license"], of_image


{"check": check, "script": script}[sys.argv[1]](sys.argv[2])
