#!/bin/sh
# Makes what is handed out twice from the last commit, in two folders with a build
# cache each, and compares. PORTS (all) and KINDS limit what is made.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
commit=$(git -C "$top" rev-parse HEAD) # which may move on meanwhile
SOURCE_DATE_EPOCH=$(git -C "$top" log -1 --format=%ct "$commit")
export SOURCE_DATE_EPOCH

for place in one a/longer/path/two; do
	mkdir -p "$work/$place"
	git clone -q --no-hardlinks "$top" "$work/$place/miotfacts"
	git -C "$work/$place/miotfacts" checkout -q --detach "$commit"
	(
		cd "$work/$place/miotfacts"
		umask "$([ "$place" = one ] && echo 022 || echo 077)"
		GOCACHE="$work/$place/cache" go run ./test/packaging/dist -out "$work/$place/out" -ports "${PORTS:-all}" -kinds "${KINDS:-archive,source,deb}"
	)
	rm -rf "$work/$place/cache"
done
diff -u "$work/one/out/SHA256SUMS" "$work/a/longer/path/two/out/SHA256SUMS"
cat "$work/one/out/SHA256SUMS"
echo "made twice, the same"
