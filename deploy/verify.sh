#!/bin/sh
# Checks a release on a device without Python: sh verify.sh RELEASE ALLOWED_SIGNERS [THRESHOLD]
# RELEASE: its folder, such as ~/edgeprune/PRODUCT/current.  Needs ssh-keygen (OpenSSH 8.2 or newer), sha256sum and awk.
# Nothing is believed but the signed manifest.json: SHA256SUMS and release.json must say what that says.
set -eu
signers=$(realpath "$2") wanted=${3:-1}
cd "$1"
refuse() { echo "$PWD: $*" >&2; exit 1; }

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
asked=$(sed -n 's/^ "threshold": \([0-9]*\),$/\1/p' manifest.json)
if [ "${asked:-1}" -gt "$wanted" ]; then wanted=$asked; fi
[ "$count" -ge "$wanted" ] || refuse "$count of $wanted signers that are allowed have signed"

# the files of this variant and those for all, by the manifest: "SHA256  PATH"; of the model its path alone
text() { sed -n "s/^ \"$1\": \"\(.*\)\",\{0,1\}\$/\1/p" release.json; }
variant=$(text variant)
listed() {
  awk -v variant="$variant" -v model="$1" '
    /^ "files": \[/ { here = 1 }
    /^  "[^"]*": \{/ { split($0, part, "\""); here = part[2] == variant }
    /^ *"path": "/ { split($0, part, "\""); path = part[4] }
    /^ *"role": "/ { split($0, part, "\""); role = part[4] }
    /^ *"sha256": "/ { split($0, part, "\""); if (here && !model) print part[4] "  " path; else if (here && role == "model") print path }
  ' manifest.json
}
if grep -Evq '^ *("[^"\\]*": )?("[^"\\]*"|[0-9]+|[{}]),?$' release.json || [ "$(grep -Ec '^ *"model": "' release.json)" != 1 ]; then
  refuse "release.json is not as it was written"
fi
[ -n "$variant" ] && [ "$(text model)" = "$(listed 1)" ] || refuse "release.json names another model than the manifest"
listed "" | sha256sum -c > /dev/null || refuse "a file is damaged"
sha256sum -c SHA256SUMS > /dev/null || refuse "a file is damaged"
find . ! -type d | sed 's|^\./||' | while read -r name; do
  case $name in SHA256SUMS | release.json | manifest.json | manifest.json.*.sig) continue ;; esac
  listed "" | cut -c 67- | grep -Fqx -e "$name" || refuse "$name is not in the manifest"
done
echo "$PWD: signed by $(printf '%s' "$good" | sort -u | tr '\n' ' ')and whole"
