include $(sort $(wildcard $(BR2_EXTERNAL_MIOTFACTS_PATH)/package/*/*.mk))
