package eventlog

import "fmt"

// A Type says what an event measures (PFP 1.06, 10.4.1 and 10.4.2). Types that
// are not listed here are kept as they are.
type Type uint32

const (
	PrebootCert                Type = 0x0
	PostCode                   Type = 0x1
	NoAction                   Type = 0x3
	Separator                  Type = 0x4
	Action                     Type = 0x5
	EventTag                   Type = 0x6
	SCRTMContents              Type = 0x7
	SCRTMVersion               Type = 0x8
	CPUMicrocode               Type = 0x9
	PlatformConfigFlags        Type = 0xa
	TableOfDevices             Type = 0xb
	CompactHash                Type = 0xc
	IPL                        Type = 0xd
	IPLPartitionData           Type = 0xe
	NonhostCode                Type = 0xf
	NonhostConfig              Type = 0x10
	NonhostInfo                Type = 0x11
	OmitBootDeviceEvents       Type = 0x12
	PostCode2                  Type = 0x13
	EFIVariableDriverConfig    Type = 0x80000001
	EFIVariableBoot            Type = 0x80000002
	EFIBootServicesApplication Type = 0x80000003
	EFIBootServicesDriver      Type = 0x80000004
	EFIRuntimeServicesDriver   Type = 0x80000005
	EFIGPTEvent                Type = 0x80000006
	EFIAction                  Type = 0x80000007
	EFIPlatformFirmwareBlob    Type = 0x80000008
	EFIHandoffTables           Type = 0x80000009
	EFIPlatformFirmwareBlob2   Type = 0x8000000a
	EFIHandoffTables2          Type = 0x8000000b
	EFIVariableBoot2           Type = 0x8000000c
	EFIGPTEvent2               Type = 0x8000000d
	EFIHCRTMEvent              Type = 0x80000010
	EFIVariableAuthority       Type = 0x800000e0
	EFISPDMFirmwareBlob        Type = 0x800000e1
	EFISPDMFirmwareConfig      Type = 0x800000e2
	EFISPDMDevicePolicy        Type = 0x800000e3
	EFISPDMDeviceAuthority     Type = 0x800000e4
)

// A typeRow is what the specification says of a type.
type typeRow struct {
	name string
	// over says whether the digest is taken over the event's data, so that data
	// which do not hash to it are false: PFP 1.06, table 27 and 10.4.2.
	over bool
}

var types = map[Type]typeRow{
	PrebootCert:                {"EV_PREBOOT_CERT", false},
	PostCode:                   {"EV_POST_CODE", false},
	NoAction:                   {"EV_NO_ACTION", false},
	Separator:                  {"EV_SEPARATOR", true},
	Action:                     {"EV_ACTION", true},
	EventTag:                   {"EV_EVENT_TAG", false},
	SCRTMContents:              {"EV_S_CRTM_CONTENTS", false},
	SCRTMVersion:               {"EV_S_CRTM_VERSION", false}, // should be, and with Intel's Boot Guard is not
	CPUMicrocode:               {"EV_CPU_MICROCODE", false},
	PlatformConfigFlags:        {"EV_PLATFORM_CONFIG_FLAGS", false},
	TableOfDevices:             {"EV_TABLE_OF_DEVICES", false},
	CompactHash:                {"EV_COMPACT_HASH", false},
	IPL:                        {"EV_IPL", false},
	IPLPartitionData:           {"EV_IPL_PARTITION_DATA", false},
	NonhostCode:                {"EV_NONHOST_CODE", false},
	NonhostConfig:              {"EV_NONHOST_CONFIG", false},
	NonhostInfo:                {"EV_NONHOST_INFO", false},
	OmitBootDeviceEvents:       {"EV_OMIT_BOOT_DEVICE_EVENTS", true},
	PostCode2:                  {"EV_POST_CODE2", false},
	EFIVariableDriverConfig:    {"EV_EFI_VARIABLE_DRIVER_CONFIG", true},
	EFIVariableBoot:            {"EV_EFI_VARIABLE_BOOT", true},
	EFIBootServicesApplication: {"EV_EFI_BOOT_SERVICES_APPLICATION", false},
	EFIBootServicesDriver:      {"EV_EFI_BOOT_SERVICES_DRIVER", false},
	EFIRuntimeServicesDriver:   {"EV_EFI_RUNTIME_SERVICES_DRIVER", false},
	EFIGPTEvent:                {"EV_EFI_GPT_EVENT", true},
	EFIAction:                  {"EV_EFI_ACTION", true},
	EFIPlatformFirmwareBlob:    {"EV_EFI_PLATFORM_FIRMWARE_BLOB", false},
	EFIHandoffTables:           {"EV_EFI_HANDOFF_TABLES", false},
	EFIPlatformFirmwareBlob2:   {"EV_EFI_PLATFORM_FIRMWARE_BLOB2", false},
	EFIHandoffTables2:          {"EV_EFI_HANDOFF_TABLES2", false},
	EFIVariableBoot2:           {"EV_EFI_VARIABLE_BOOT2", true},
	EFIGPTEvent2:               {"EV_EFI_GPT_EVENT2", false},
	EFIHCRTMEvent:              {"EV_EFI_HCRTM_EVENT", false},
	EFIVariableAuthority:       {"EV_EFI_VARIABLE_AUTHORITY", true},
	EFISPDMFirmwareBlob:        {"EV_EFI_SPDM_FIRMWARE_BLOB", false},
	EFISPDMFirmwareConfig:      {"EV_EFI_SPDM_FIRMWARE_CONFIG", false},
	EFISPDMDevicePolicy:        {"EV_EFI_SPDM_DEVICE_POLICY", false},
	EFISPDMDeviceAuthority:     {"EV_EFI_SPDM_DEVICE_AUTHORITY", false},
}

// String is the name of the specification, or the number.
func (t Type) String() string {
	if row, ok := types[t]; ok {
		return row.name
	}
	return fmt.Sprintf("event type %#08x", uint32(t))
}
