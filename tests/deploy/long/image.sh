# Builds the image's program as the Dockerfile does, optimized and only from the files of the context, and runs it in its tree.
. tests/lib.sh

context=$(mktemp -d "$target/context.XXXXXX")
trap 'rm -rf "$context"' EXIT
sed -n 's/^!//p' deploy/docker/Dockerfile.dockerignore | xargs -I{} cp -R --parents {} "$context"
(cd "$context" && KFWATCH_REVISION=of-the-image cargo build --profile dist --locked --quiet --bin kfwatch)
grep --quiet --text of-the-image "$target/dist/kfwatch"
bash -euo pipefail tests/deploy/image.sh "$target/dist/kfwatch"
