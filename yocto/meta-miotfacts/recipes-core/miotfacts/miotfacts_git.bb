require recipes-core/include/miotfacts-common.inc

LICENSE = "Apache-2.0 & BSD-2-Clause & BSD-3-Clause & MIT & (EPL-2.0 | BSD-3-Clause)"
LIC_FILES_CHKSUM = "file://src/${GO_IMPORT}/LICENSE;md5=86d3f3a95c324c9479bd8986968f4327"
require ${BPN}-licenses.inc

GO_IMPORT = "github.com/miotfacts/miotfacts"
# The workbench, factsctl, belongs on other machines.
GO_INSTALL = "${GO_IMPORT}/cmd/factsd ${@bb.utils.contains('PACKAGECONFIG', 'talk', '${GO_IMPORT}/cmd/factstalk', '', d)}"

SRC_URI = "git://${GO_IMPORT};protocol=https;branch=main;destsuffix=${GO_SRCURI_DESTSUFFIX}"
require ${BPN}-go-mods.inc
SRCREV = "38121401952df38a91b93339057d4f6b71007ba5"
PV = "0.1.0+git"

inherit go-mod go-mod-update-modules

MIOTFACTS_TREE = "${S}/src/${GO_IMPORT}"

# Static and the same wherever it is built: no cgo, no shared Go runtime, no PIE
# (which go.bbclass adds, and which would need a loader), no build id, no commit.
CGO_ENABLED = "0"
GO_LINKSHARED = ""
GOBUILDFLAGS:append = " -buildvcs=false"
# As small as make size says; the Makefile has the reasons.
GOBUILDFLAGS:append = " -gcflags=all=-l -gcflags=crypto/internal/fips140/nistec/...= -gcflags=crypto/internal/fips140/bigmod= -gcflags=crypto/internal/fips140/aes/...= -gcflags=crypto/internal/fips140/sha256= -gcflags=crypto/internal/fips140/sha512= -gcflags=crypto/internal/fips140/subtle= -gcflags=encoding/binary= -gcflags=internal/...= -gcflags=math/bits= -gcflags=runtime/...="
GOBUILDFLAGS:remove = "-buildmode=pie"
GO_EXTRA_LDFLAGS = "-s -w -X main.version=0.1.0"
GO_LDFLAGS = '-ldflags="-buildid= ${GO_EXTRA_LDFLAGS}"'
# The toolchain of the series builds, or nothing does.
export GOTOOLCHAIN = "local"

# go-mod's do_install would put the sources into the image.
do_install() {
    install -D -m 0755 ${B}/${GO_BUILD_BINDIR}/factsd ${D}${bindir}/factsd
    if ${@bb.utils.contains('PACKAGECONFIG', 'talk', 'true', 'false', d)}; then
        install -m 0755 ${B}/${GO_BUILD_BINDIR}/factstalk ${D}${bindir}/factstalk
    fi
    miotfacts_assert_static
    miotfacts_install_rest
}

# -s -w above.
INSANE_SKIP:${PN} += "already-stripped"
INSANE_SKIP:${PN}-talk += "already-stripped"
