#!/bin/sh
# Checks a release on a device without Python: sh verify.sh RELEASE ALLOWED_SIGNERS [THRESHOLD]
# RELEASE: its folder, such as ~/edgeprune/PRODUCT/current.  Needs ssh-keygen (OpenSSH 8.2 or newer) and sha256sum.
set -eu
signers=$(realpath "$2") wanted=${3:-1}
cd "$1"

good=
for signature in manifest.json.*.sig; do
  principal=$(ssh-keygen -Y find-principals -s "$signature" -f "$signers" < manifest.json 2> /dev/null | head -n 1) || continue
  [ -n "$principal" ] || continue
  if ssh-keygen -q -Y verify -f "$signers" -I "$principal" -n edgeprune-release -s "$signature" < manifest.json > /dev/null 2>&1; then
    good="$good$principal
"
  fi
done
count=$(printf '%s' "$good" | sort -u | grep -c . || :)
if [ "$count" -lt "$wanted" ]; then echo "$PWD: $count of $wanted signers that are allowed have signed" >&2; exit 1; fi

# every file is as listed, and every listed content is in what was signed
sha256sum -c SHA256SUMS > /dev/null || { echo "$PWD: a file is damaged" >&2; exit 1; }
while read -r digest name; do
  case $name in manifest.json | manifest.json.*.sig) continue ;; esac
  grep -q "\"sha256\": \"$digest\"" manifest.json || { echo "$PWD: $name is not in the manifest" >&2; exit 1; }
done < SHA256SUMS
echo "$PWD: signed by $(printf '%s' "$good" | sort -u | tr '\n' ' ')and whole"
