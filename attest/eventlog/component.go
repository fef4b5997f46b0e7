package eventlog

import (
	"path"
	"strings"
)

// A Component is the part of a machine that an event is about.
type Component uint8

// The components. Other is what no rule here knows.
const (
	Other Component = iota
	Firmware
	Settings // of the firmware: boot options, tables, partitions
	Keys     // PK, KEK, db, dbx, what allowed an image to run, shim's lists
	Loader
	Kernel
	Initrd
	CommandLine
	Userspace // phases, file systems, machine id
)

func (c Component) String() string {
	return [...]string{"other", "firmware", "settings", "keys", "loader", "kernel", "initrd", "cmdline", "userspace"}[c]
}

// components says of each event what it is about. Only the firmware's word for
// the order tells a kernel with an EFI stub from a loader: it is the last
// application that is started, where nobody measures a kernel as such.
func (l *Log) components() []Component {
	list := make([]Component, len(l.Events))
	last, kernel := -1, false
	for i := range l.Events {
		e := &l.Events[i]
		list[i] = e.component()
		if e.extends() && e.Type == EFIBootServicesApplication {
			last = i
		}
		kernel = kernel || list[i] == Kernel && e.PCR != 11 // a UKI's kernel is started as well
	}
	if last >= 0 && !kernel {
		list[last] = Kernel
	}
	// U-Boot's bootm and booti measure the kernel, then what starts it as flags.
	started := false
	for i := range l.Events {
		e := &l.Events[i]
		started = started || e.PCR == 8 && e.Type == CompactHash && list[i] == Kernel
		if started && e.PCR == 1 && e.Type == PlatformConfigFlags {
			list[i] = CommandLine
		}
	}
	return list
}

func (e *Event) component() Component {
	if e.Kind != "" && e.Kind != "pcclient_std" {
		return Userspace
	}
	switch e.Type {
	case SCRTMVersion, SCRTMContents, PostCode, PostCode2, EFIPlatformFirmwareBlob, EFIPlatformFirmwareBlob2, CPUMicrocode, EFIHCRTMEvent,
		EFIBootServicesDriver, EFIRuntimeServicesDriver, NonhostCode, EFIAction, Action, OmitBootDeviceEvents, EFISPDMFirmwareBlob:
		return Firmware
	case EFIVariableAuthority, EFISPDMDeviceAuthority, EFISPDMDevicePolicy:
		return Keys
	case EFIVariableDriverConfig:
		if e.PCR == 7 {
			return Keys
		}
		return Settings
	case EFIVariableBoot, EFIVariableBoot2, EFIHandoffTables, EFIHandoffTables2, PlatformConfigFlags, TableOfDevices, NonhostConfig,
		NonhostInfo, EFIGPTEvent, EFIGPTEvent2, IPLPartitionData, EFISPDMFirmwareConfig:
		return Settings
	case Separator:
		if e.PCR == 7 {
			return Keys
		}
		return Firmware
	case EFIBootServicesApplication:
		return Loader
	case EventTag:
		if t, ok := readTag(e.Data); ok {
			switch t.id {
			case tagLoadOptions:
				return CommandLine
			case tagInitrd:
				return Initrd
			}
		}
	case IPL, CompactHash:
		return e.loaderComponent()
	}
	return Other
}

// loaderComponent is about what loaders measure: see loaderWords.
func (e *Event) loaderComponent() Component {
	line := e.loaderWords()
	switch {
	case e.PCR == 14:
		return Keys
	case strings.HasSuffix(line.Subject, "command line"):
		return CommandLine
	case line.Subject == "kernel":
		return Kernel
	case line.Subject == "initial RAM disk":
		return Initrd
	}
	section := strings.TrimPrefix(line.Subject, "UKI section ")
	if line.Subject == "name of UKI section" {
		section = line.Value
	}
	switch section {
	case ".linux":
		return Kernel
	case ".initrd":
		return Initrd
	case ".cmdline":
		return CommandLine
	}
	if line.Subject == "file read by the loader" {
		name := strings.ToLower(path.Base(strings.ReplaceAll(line.Value, `\`, "/")))
		for _, prefix := range []string{"initrd", "initramfs"} {
			if strings.HasPrefix(name, prefix) {
				return Initrd
			}
		}
		for _, prefix := range []string{"vmlinu", "image", "bzimage", "zimage", "linux", "kernel"} {
			if strings.HasPrefix(name, prefix) {
				return Kernel
			}
		}
	}
	return Loader
}
