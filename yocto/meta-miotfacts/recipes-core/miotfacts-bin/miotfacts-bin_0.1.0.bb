# The archive that `make dist` makes, for series whose Go is too old.
require recipes-core/include/miotfacts-common.inc

LICENSE = "Apache-2.0 & BSD-2-Clause & BSD-3-Clause & MIT & (EPL-2.0 | BSD-3-Clause)"
LIC_FILES_CHKSUM = "file://LICENSE;md5=86d3f3a95c324c9479bd8986968f4327"

# Where the archives are, and the checksum of this machine's in SHA256SUMS. There
# is no default: a checksum belongs to one release.
MIOTFACTS_ARCHIVES ?= "https://github.com/miotfacts/miotfacts/releases/download/v${PV}"
MIOTFACTS_SHA256 ?= ""

MIOTFACTS_PORT = "none"
MIOTFACTS_PORT:x86-64 = "amd64"
MIOTFACTS_PORT:x86 = "386"
MIOTFACTS_PORT:aarch64 = "arm64"
MIOTFACTS_PORT:riscv64 = "riscv64"
MIOTFACTS_PORT:arm = "${@bb.utils.contains('TUNE_FEATURES', 'armv7a', 'armv7', bb.utils.contains('TUNE_FEATURES', 'armv7ve', 'armv7', 'armv6', d), d)}"

SRC_URI = "${MIOTFACTS_ARCHIVES}/miotfacts-${PV}-linux-${MIOTFACTS_PORT}.tar.gz"
SRC_URI[sha256sum] = "${MIOTFACTS_SHA256}"
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}/miotfacts-${PV}-linux-${MIOTFACTS_PORT}"
MIOTFACTS_TREE = "${S}"

python () {
    if d.getVar('MIOTFACTS_PORT') == 'none':
        raise bb.parse.SkipRecipe('no archive is made for this machine')
    if not d.getVar('MIOTFACTS_SHA256'):
        raise bb.parse.SkipRecipe('MIOTFACTS_SHA256 is not set: the checksum of miotfacts-%s-linux-%s.tar.gz in SHA256SUMS' % (d.getVar('PV'), d.getVar('MIOTFACTS_PORT')))
}

PROVIDES = "miotfacts"
RPROVIDES:${PN} = "miotfacts"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -D -m 0755 ${S}/bin/factsd ${D}${bindir}/factsd
    if ${@bb.utils.contains('PACKAGECONFIG', 'talk', 'true', 'false', d)}; then
        install -m 0755 ${S}/bin/factstalk ${D}${bindir}/factstalk
    fi
    miotfacts_assert_static
    miotfacts_install_rest
}

INSANE_SKIP:${PN} += "already-stripped"
INSANE_SKIP:${PN}-talk += "already-stripped"
