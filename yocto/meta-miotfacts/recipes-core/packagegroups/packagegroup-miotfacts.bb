SUMMARY = "Runtime facts on a device"

PACKAGE_ARCH = "${MACHINE_ARCH}"
inherit packagegroup

RDEPENDS:${PN} = "miotfacts miotfacts-conf"
