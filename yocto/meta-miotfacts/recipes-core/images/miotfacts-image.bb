SUMMARY = "A small image with runtime facts, to try them"
LICENSE = "Apache-2.0"

inherit core-image

IMAGE_FEATURES += "read-only-rootfs"
IMAGE_INSTALL:append = " packagegroup-miotfacts"
