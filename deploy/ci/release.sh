#!/bin/sh
# Prune, measure on the lab's board, gate, release.  Any step that fails ends it, before the device is touched.  A second call continues with
# the bundle that the first one signed: devices refuse another one of the same version.
#
#   RECIPE          the recipe                           VERSION          of the release, such as 1.4.0
#   BOARD           the board to measure on              DEVICES          where to release to: names, a group, addresses
#   LATENCY         the budget and the gate              KEY              the SSH key that signs
#   ALLOWED_SIGNERS whose signatures count               ACCURACY         a further gate, of the task's accuracy; may be left out
set -eu
: "${RECIPE:?}" "${VERSION:?}" "${BOARD:?}" "${DEVICES:?}" "${LATENCY:?}" "${KEY:?}" "${ALLOWED_SIGNERS:?}"
runs=${RUNS:-runs/$VERSION} bundle=${BUNDLE:-release-$VERSION.epb}

if [ ! -e "$bundle" ]; then
  edgeprune prune "$RECIPE" --target "$BOARD" --latency "$LATENCY" --runs "$runs"
  run=$(ls -d "$runs"/*/ | tail -n 1)

  # measured again, in a session of its own; kept in the history under the version, and as a report for CI
  edgeprune bench "$run/artifacts/pruned.tflite" --target "$BOARD" --fail-if "latency:$LATENCY" --label "v$VERSION" --junit bench.xml

  edgeprune release build "$run" --version "$VERSION" --gate "latency:$LATENCY${ACCURACY:+,accuracy:$ACCURACY}" --output "$bundle.unsigned"
  edgeprune release sign "$bundle.unsigned" --key "$KEY" --output "$bundle"
  rm "$bundle.unsigned"
fi
edgeprune release verify "$bundle" --allowed-signers "$ALLOWED_SIGNERS"
edgeprune release push "$bundle" --target "$DEVICES" --allowed-signers "$ALLOWED_SIGNERS" --canary 1 --wave 5 --max-failures 10%
edgeprune release status --target "$DEVICES" --check
