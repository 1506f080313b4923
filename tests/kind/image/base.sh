#!/bin/sh
# base.sh ARCHIVE: the Debian system of a kind node, without kind and Kubernetes.
# Needs root, debootstrap and Debian's registry: the one that debootstrap takes, or MIRROR.
set -eu
archive=$1
work=$archive.work
trap 'rm -rf "$work"' EXIT
rm -rf "$work"
debootstrap --variant=minbase \
	--include=systemd,systemd-sysv,dbus,containerd,runc,containernetworking-plugins,iproute2,iptables,nftables,conntrack,ethtool,socat,kmod,procps,ca-certificates,curl,jq,hostname \
	bookworm "$work" ${MIRROR:+"$MIRROR"} >"$archive.log" 2>&1 || { tail -20 "$archive.log" >&2; exit 1; }
rm -rf "$work"/var/cache/apt/archives/*.deb "$work"/var/lib/apt/lists/* "$work"/usr/share/doc "$work"/usr/share/man "$work"/usr/share/locale
tar -C "$work" --numeric-owner -cf "$archive.draft" .
mv "$archive.draft" "$archive"
rm -f "$archive.log"
