#!/bin/sh
# Installs Debian packages into an image and removes all temporary files: debian.sh PACKAGE…
set -eu
umask 022
export DEBIAN_FRONTEND=noninteractive
settings=/run/secrets/apt # of the build machine, such as its proxy
[ -f "$settings" ] && export APT_CONFIG="$settings"
apt-get -qq -o APT::Update::Error-Mode=any update
apt-get -qq -o Dpkg::Use-Pty=0 install --no-install-recommends -y "$@" >/dev/null
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/* /var/log/apt /var/log/dpkg.log \
  /var/log/alternatives.log
