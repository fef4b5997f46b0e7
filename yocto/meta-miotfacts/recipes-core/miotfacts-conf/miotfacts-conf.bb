SUMMARY = "Configuration of factsd, to be replaced by the product's"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${COREBASE}/meta/files/common-licenses/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

inherit allarch

# The example. A bbappend of the product puts its own files in FILESEXTRAPATHS:
# factsd.toml, and in MIOTFACTS_FILES (and SRC_URI) the manufacturer's root keys.
# No private key belongs into an image: factsd provision makes the device's.
SRC_URI = "file://factsd.toml"
MIOTFACTS_FILES ?= ""

S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${sysconfdir}/miotfacts
    for f in factsd.toml ${MIOTFACTS_FILES}; do
        install -m 0644 ${S}/$f ${D}${sysconfdir}/miotfacts
    done
}

CONFFILES:${PN} = "${sysconfdir}/miotfacts/factsd.toml"
