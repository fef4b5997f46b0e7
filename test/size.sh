#!/bin/sh
# size.sh PORT... builds factsd and factstalk static and stripped for each port and
# prints their sizes in bytes. BUDGET holds the limits of factsd, "arm64=8500000
# armv7=8000000", FLAGS more flags of go build. Above a limit it names the packages
# that weigh most and fails.
set -eu
GO=${GO:-go}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

build() { # PORT LDFLAGS OUT [COMMAND]
	arch=$1 arm=
	case $1 in armv*) arch=arm arm=${1#armv} ;; esac
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOARM=$arm $GO build -trimpath -ldflags "$2" ${FLAGS:-} -o "$3" "./cmd/${4:-factsd}"
}

# A symbol belongs to what stands before the first dot after the last slash;
# go:..., type:... are the linker's own tables. What lies behind runtime.bss
# takes no room in the file.
heaviest() { # BINARY
	$GO tool nm -size -sort address "$1" | awk '
		NF < 4 || $2 ~ /^-/ || $3 == "U" { next }
		$4 == "runtime.bss" { bss = sprintf("%16s", $1) }
		{
			address[NR] = sprintf("%16s", $1)
			size[NR] = $2
			name = $4
			if (match(name, /^[a-z]+:/)) name = substr(name, 1, RLENGTH) " tables of the linker"
			else {
				sub(/\[.*/, "", name)
				head = ""
				if (match(name, /.*\//)) { head = substr(name, 1, RLENGTH); name = substr(name, RLENGTH + 1) }
				sub(/\..*/, "", name)
				name = head name
				gsub(/%2e/, ".", name)
			}
			package[NR] = name
		}
		END {
			for (i in package) if (bss == "" || address[i] < bss) sum[package[i]] += size[i]
			for (p in sum) printf "  %9d  %s\n", sum[p], p
		}' | sort -rn | sed 15q
}

for port; do
	build "$port" "-s -w" "$dir/factsd"
	size=$(wc -c <"$dir/factsd")
	limit=
	for b in ${BUDGET:-}; do
		case $b in "$port="*) limit=${b#*=} ;; esac
	done
	if [ -z "$limit" ]; then
		printf 'factsd %-8s %9d\n' "$port" "$size"
	elif [ "$size" -le "$limit" ]; then
		printf 'factsd %-8s %9d  of %d\n' "$port" "$size" "$limit"
	else
		printf 'factsd %-8s %9d  ABOVE the budget of %d; the heaviest packages:\n' "$port" "$size" "$limit"
		build "$port" "" "$dir/factsd.symbols"
		heaviest "$dir/factsd.symbols"
		failed=1
	fi
	FLAGS='' build "$port" "-s -w" "$dir/factstalk" factstalk
	printf 'factstalk %-5s %9d\n' "$port" "$(wc -c <"$dir/factstalk")"
done
exit $failed
