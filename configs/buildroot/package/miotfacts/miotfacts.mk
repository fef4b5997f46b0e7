################################################################################
#
# miotfacts
#
################################################################################

MIOTFACTS_VERSION = 0.1.0
MIOTFACTS_SITE = $(call github,miotfacts,miotfacts,v$(MIOTFACTS_VERSION))
MIOTFACTS_LICENSE = Apache-2.0
MIOTFACTS_LICENSE_FILES = LICENSE

MIOTFACTS_GOMOD = github.com/miotfacts/miotfacts
MIOTFACTS_BUILD_TARGETS = cmd/factsd
MIOTFACTS_LDFLAGS = -s -w -buildid= -X main.version=$(MIOTFACTS_VERSION)
MIOTFACTS_GO_ENV = CGO_ENABLED=0
MIOTFACTS_BUILD_OPTS = -gcflags=all=-l -gcflags=crypto/internal/fips140/nistec/...= -gcflags=crypto/internal/fips140/bigmod= -gcflags=crypto/internal/fips140/aes/...= -gcflags=crypto/internal/fips140/sha256= -gcflags=crypto/internal/fips140/sha512= -gcflags=crypto/internal/fips140/subtle= -gcflags=encoding/binary= -gcflags=internal/...= -gcflags=math/bits= -gcflags=runtime/...=

ifeq ($(BR2_PACKAGE_MIOTFACTS_TALK),y)
MIOTFACTS_BUILD_TARGETS += cmd/factstalk

define MIOTFACTS_TALK_USER
	factstalk -1 factstalk -1 * /var/lib/factstalk - - miotfacts record of peers
endef

define MIOTFACTS_INSTALL_TALK_CONFIG
	$(INSTALL) -D -m 0644 $(@D)/configs/factstalk.toml \
		$(TARGET_DIR)/etc/miotfacts/factstalk.toml
endef
MIOTFACTS_POST_INSTALL_TARGET_HOOKS += MIOTFACTS_INSTALL_TALK_CONFIG

define MIOTFACTS_INSTALL_TALK_SYSTEMD
	$(INSTALL) -D -m 0644 $(@D)/configs/systemd/factstalk.service \
		$(TARGET_DIR)/usr/lib/systemd/system/factstalk.service
	$(INSTALL) -D -m 0644 $(@D)/configs/systemd/factstalk.preset \
		$(TARGET_DIR)/usr/lib/systemd/system-preset/80-factstalk.preset
endef

define MIOTFACTS_TALK_LINUX_CONFIG_FIXUPS
	$(call KCONFIG_ENABLE_OPT,CONFIG_PACKET)
	$(call KCONFIG_ENABLE_OPT,CONFIG_INET_UDP_DIAG)
endef
endif

define MIOTFACTS_USERS
	factsd -1 factsd -1 * /var/lib/miotfacts - tss miotfacts agent
	$(MIOTFACTS_TALK_USER)
endef

define MIOTFACTS_INSTALL_CONFIG
	$(INSTALL) -D -m 0644 $(@D)/configs/factsd.toml \
		$(TARGET_DIR)/etc/miotfacts/factsd.toml
endef
MIOTFACTS_POST_INSTALL_TARGET_HOOKS += MIOTFACTS_INSTALL_CONFIG

define MIOTFACTS_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(@D)/configs/busybox/factsd.init \
		$(TARGET_DIR)/etc/init.d/S60factsd
endef

define MIOTFACTS_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 $(@D)/configs/systemd/factsd.service \
		$(TARGET_DIR)/usr/lib/systemd/system/factsd.service
	$(INSTALL) -D -m 0644 $(@D)/configs/systemd/factsd-enforce.service \
		$(TARGET_DIR)/usr/lib/systemd/system/factsd-enforce.service
	$(INSTALL) -D -m 0644 $(@D)/configs/systemd/factsd-netfilter.socket \
		$(TARGET_DIR)/usr/lib/systemd/system/factsd-netfilter.socket
	$(INSTALL) -D -m 0644 $(@D)/configs/systemd/factsd-resume.service \
		$(TARGET_DIR)/usr/lib/systemd/system/factsd-resume.service
	$(INSTALL) -D -m 0644 $(@D)/configs/systemd/run-miotfacts.stick.mount \
		$(TARGET_DIR)/usr/lib/systemd/system/run-miotfacts.stick.mount
	$(INSTALL) -D -m 0644 $(@D)/configs/systemd/factsd.preset \
		$(TARGET_DIR)/usr/lib/systemd/system-preset/80-factsd.preset
	$(INSTALL) -D -m 0644 $(@D)/configs/tmpfiles/miotfacts.conf \
		$(TARGET_DIR)/usr/lib/tmpfiles.d/miotfacts.conf
	$(MIOTFACTS_INSTALL_TALK_SYSTEMD)
endef

define MIOTFACTS_LINUX_CONFIG_FIXUPS
	$(call KCONFIG_ENABLE_OPT,CONFIG_SECURITYFS)
	$(call KCONFIG_ENABLE_OPT,CONFIG_TCG_TPM)
	$(call KCONFIG_ENABLE_OPT,CONFIG_TCG_TIS)
	$(call KCONFIG_ENABLE_OPT,CONFIG_IMA)
	$(call KCONFIG_ENABLE_OPT,CONFIG_PSI)
	$(call KCONFIG_ENABLE_OPT,CONFIG_CGROUPS)
	$(call KCONFIG_ENABLE_OPT,CONFIG_INET_DIAG)
	$(call KCONFIG_ENABLE_OPT,CONFIG_WATCHDOG)
	$(MIOTFACTS_TALK_LINUX_CONFIG_FIXUPS)
endef

$(eval $(golang-package))
