require ${@bb.utils.contains('DISTRO_FEATURES', 'miotfacts', 'recipes-kernel/linux/miotfacts-kernel.inc', '', d)}
