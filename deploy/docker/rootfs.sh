#!/bin/sh
# Assembles the whole root file system of kfwatch's image from a built program and this machine's Debian:
#
#   rootfs.sh BINARY DIRECTORY
#
# The Dockerfile copies DIRECTORY into an empty image and adds nothing, so a test of DIRECTORY is a test of the image.
# Needs root, because the data directory belongs to the user of the container.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: rootfs.sh BINARY DIRECTORY" >&2
    exit 2
fi
binary=$1
root=$2
# The user and group of the container, as numbers: volumes and security contexts need numbers.
id=65532

umask 022
# A new directory, so that nothing else gets into the image.
mkdir "$root"

install -D --mode=755 "$binary" "$root/usr/bin/kfwatch"

# The loader and the libraries, at the paths where the loader looks for them. C libraries older than 2.34 load libraries for
# name resolution at run time, and ldd does not list them.
libraries=$(ldd "$binary")
case $libraries in
    *"not found"*)
        echo "rootfs.sh: libraries of $binary are missing: $libraries" >&2
        exit 1
        ;;
esac
libraries=$(printf '%s\n' "$libraries" | grep -o '/[^ ]*')
libc=$(printf '%s\n' "$libraries" | grep '/libc\.so')
for name in libnss_files.so.2 libnss_dns.so.2 libresolv.so.2; do
    if [ -e "${libc%/*}/$name" ]; then
        libraries="$libraries ${libc%/*}/$name"
    fi
done
for library in $libraries; do
    install -D --mode=755 "$library" "$root$library"
done

# The TLS roots and the time zones; "right" and "posix" are other versions of the same zones.
install -D --mode=644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
mkdir -p "$root/usr/share"
cp -R /usr/share/zoneinfo "$root/usr/share/zoneinfo"
rm -rf "$root/usr/share/zoneinfo/right" "$root/usr/share/zoneinfo/posix"

cat >"$root/etc/passwd" <<EOF
root:x:0:0:root:/:/usr/sbin/nologin
kfwatch:x:$id:$id:kfwatch:/var/lib/kfwatch:/usr/sbin/nologin
EOF
cat >"$root/etc/group" <<EOF
root:x:0:
kfwatch:x:$id:
EOF
cat >"$root/etc/nsswitch.conf" <<EOF
passwd: files
group: files
hosts: files dns
EOF

# For config.toml.
mkdir "$root/etc/kfwatch"
# The store and the files of sinks: a new volume gets this owner and these permissions.
install -d --owner=$id --group=$id --mode=700 "$root/var/lib/kfwatch"
# For the demo, whose store is temporary.
install -d --mode=1777 "$root/tmp"
