package facts

// Catalogue returns the definitions of all facts this version can measure. It
// is the one table: docs/facts.md is generated from it, and a new fact begins
// with a line here. Wire keys are grouped by tens and never reused.
//
// Cumulative counters are given as they are where the kernel keeps them since
// boot, and as a rate per second where a rule would need the rate.
func Catalogue() []Def {
	return []Def{
		{Name: "boot.firmware", Key: 1, Unit: "ms", Kind: Int, Cadence: Boot, Source: "D-Bus org.freedesktop.systemd1.Manager FirmwareTimestampMonotonic, LoaderTimestampMonotonic", Doc: "Time in firmware before the boot loader ran (systemd, src/analyze/analyze-time-data.c)."},
		{Name: "boot.loader", Key: 2, Unit: "ms", Kind: Int, Cadence: Boot, Source: "D-Bus org.freedesktop.systemd1.Manager LoaderTimestampMonotonic", Doc: "Time in the boot loader until the kernel started."},
		{Name: "boot.kernel", Key: 3, Unit: "ms", Kind: Int, Cadence: Boot, Source: "D-Bus Manager InitRDTimestampMonotonic or UserspaceTimestampMonotonic; without systemd the start time of process 1 in /proc/1/stat", Doc: "Time in the kernel until the first process ran."},
		{Name: "boot.initrd", Key: 4, Unit: "ms", Kind: Int, Cadence: Boot, Source: "D-Bus Manager InitRDTimestampMonotonic, UserspaceTimestampMonotonic", Doc: "Time in the initial RAM file system; absent when there was none."},
		{Name: "boot.userspace", Key: 5, Unit: "ms", Kind: Int, Cadence: Boot, Source: "D-Bus Manager FinishTimestampMonotonic, UserspaceTimestampMonotonic", Doc: "Time from the first user-space process of the root file system to boot-complete."},
		{Name: "boot.total", Key: 6, Unit: "ms", Kind: Int, Cadence: Boot, Source: "sum of the phases; without systemd the uptime at the agent's first round in this boot", Doc: "Time from power-on, or from kernel start where firmware tells nothing, to boot-complete; in a container from its start."},
		{Name: "boot.cpu_time", Key: 7, Unit: "ms", Kind: Int, Cadence: Boot, Source: "/proc/stat cpu", Doc: "CPU time (all but idle and iowait) from kernel start to when the boot record was taken; absent when that was more than 10 min after boot-complete (proc(5))."},
		{Name: "boot.energy", Key: 8, Unit: "mJ", Kind: Int, Cadence: Boot, Source: "/sys/class/hwmon/*/energy*_input; else /sys/class/powercap/*/energy_uj", Doc: "Energy counters when the boot record was taken; absent like boot.cpu_time, and where nothing counts energy."},
		{Name: "boot.count", Key: 9, Unit: "1", Kind: Int, Cadence: Boot, Source: "the agent's state directory, /proc/sys/kernel/random/boot_id", Doc: "Boots of this device that the agent has seen; malformed in the boot in which it had to begin anew."},
		{Name: "boot.secure", Key: 10, Kind: Bool, Cadence: Boot, Source: "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c; /proc/device-tree/chosen/bootloader/signed", Doc: "Secure Boot is on, as the operating system says; a hint, the proof is in the quoted PCRs."},
		{Name: "boot.loader_verified", Key: 11, Kind: Bool, Cadence: Boot, Source: "SecureBoot and SetupMode EFI variables", Doc: "The firmware verified the boot loader: Secure Boot is on and the platform is not in setup mode."},
		{Name: "boot.pcr_digest", Key: 12, Kind: Bytes, Cadence: Boot, Source: "TPM2_PCR_Read over the manifest's selection", Doc: "SHA-256 over the selected PCR values in ascending order; the quote in the evidence proves it."},
		{Name: "boot.cmdline", Key: 13, Kind: Text, Cadence: Boot, Source: "/proc/cmdline", Doc: "The kernel command line."},
		{Name: "cpu.usage", Key: 20, Unit: "permille", Kind: Int, Cadence: Fast, Source: "/proc/stat cpu", Doc: "Share of CPU time that was neither idle nor iowait since the round before, over all processors (proc(5))."},
		{Name: "cpu.load", Key: 21, Unit: "permille", Kind: Int, Cadence: Fast, Source: "/proc/loadavg", Doc: "Load average over one minute, times 1000 (proc(5))."},
		{Name: "cpu.frequency", Key: 22, Unit: "kHz", Kind: Int, Cadence: Fast, Source: "/sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq", Doc: "Highest current frequency of any processor (kernel, admin-guide/pm/cpufreq)."},
		{Name: "cpu.pressure", Key: 23, Unit: "permille", Kind: Int, Cadence: Fast, Source: "/proc/pressure/cpu some total", Doc: "Share of time in which some task waited for a processor since the round before (kernel, accounting/psi)."},
		{Name: "cpu.throttled", Key: 24, Unit: "1/s", Kind: Int, Cadence: Fast, Source: "/sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count", Doc: "Thermal throttling events a second, summed over all processors; at least 1 when there was one (kernel, ABI/testing/sysfs-devices-system-cpu)."},
		{Name: "memory.available", Key: 30, Unit: "KiB", Kind: Int, Cadence: Fast, Source: "/proc/meminfo MemAvailable", Doc: "Memory available for new work without swapping (proc(5))."},
		{Name: "memory.used", Key: 31, Unit: "permille", Kind: Int, Cadence: Fast, Source: "/proc/meminfo MemTotal, MemAvailable", Doc: "Share of memory that is not available."},
		{Name: "memory.pressure", Key: 32, Unit: "permille", Kind: Int, Cadence: Fast, Source: "/proc/pressure/memory some total", Doc: "Share of time in which some task waited for memory since the round before (kernel, accounting/psi)."},
		{Name: "memory.oom_kills", Key: 33, Unit: "1", Kind: Int, Cadence: Fast, Source: "/proc/vmstat oom_kill", Doc: "Processes killed for lack of memory since boot."},
		{Name: "energy.power", Key: 40, Unit: "mW", Kind: Int, Cadence: Fast, Source: "/sys/class/hwmon/*/power*_input, else power*_average; else /sys/class/hwmon/*/energy*_input; else /sys/class/powercap/*/energy_uj", Doc: "Power drawn: the sum of all hwmon power sensors, else the rate of the energy counters (kernel, hwmon/sysfs-interface)."},
		{Name: "energy.used", Key: 41, Unit: "mJ", Kind: Int, Cadence: Fast, Source: "/sys/class/hwmon/*/energy*_input; else /sys/class/powercap/*/energy_uj", Doc: "Energy used since the agent started, wrap-around of the counters taken into account (kernel, power/powercap)."},
		{Name: "energy.voltage", Key: 42, Unit: "mV", Kind: Int, Cadence: Fast, Source: "/sys/class/hwmon/*/in*_input of INA2xx, INA3221 and channels labelled vin; /sys/class/power_supply/*/voltage_now", Doc: "Lowest voltage of what feeds the device (kernel, hwmon/sysfs-interface)."},
		{Name: "energy.battery", Key: 43, Unit: "permille", Kind: Int, Cadence: Slow, Source: "/sys/class/power_supply/*/capacity", Doc: "Charge of the emptiest battery (kernel, ABI/testing/sysfs-class-power)."},
		{Name: "energy.undervoltage", Key: 44, Kind: Bool, Cadence: Fast, Source: "/sys/class/hwmon/*/in*_lcrit_alarm", Doc: "A voltage is below its critical limit (Raspberry Pi: rpi_volt; kernel, hwmon/sysfs-interface)."},
		{Name: "thermal.max", Key: 50, Unit: "m°C", Kind: Int, Cadence: Fast, Source: "/sys/class/thermal/thermal_zone*/temp; /sys/class/hwmon/*/temp*_input", Doc: "Highest temperature of any zone or sensor that does not report a fault (kernel, driver-api/thermal/sysfs-api)."},
		{Name: "storage.used", Key: 60, Unit: "permille", Kind: Int, Cadence: Slow, Source: "statfs(2) of the root file system", Doc: "Share of the root file system's blocks that is used, of those that unprivileged programs may use (as df(1) counts)."},
		{Name: "storage.wear", Key: 61, Unit: "permille", Kind: Int, Cadence: Slow, Source: "/sys/block/mmcblk*/device/life_time", Doc: "Used share of the flash's life as the eMMC reports it, upper end of its step; 1100 when it is exceeded (JEDEC JESD84-B51, DEVICE_LIFE_TIME_EST)."},
		{Name: "storage.root_readonly", Key: 62, Kind: Bool, Cadence: Slow, Source: "/proc/self/mountinfo", Doc: "The root file system is mounted read-only."},
		{Name: "storage.verity", Key: 63, Kind: Bool, Cadence: Slow, Source: "/sys/block/dm-*/dm/uuid", Doc: "A dm-verity device is active (uuid prefix CRYPT-VERITY-)."},
		{Name: "network.listening", Key: 70, Kind: Set, Cadence: Fast, Source: "sock_diag(7) inet_diag dump of TCP listeners and bound UDP sockets; /proc/net/{tcp,tcp6,udp,udp6} where the kernel has no inet_diag", Doc: "Listening sockets as proto/address:port, for example tcp/0.0.0.0:22; UDP sockets with a peer are left out."},
		{Name: "network.peers", Key: 71, Kind: Set, Cadence: Slow, Source: "sock_diag(7) inet_diag dump of established TCP sockets; else /proc/net/{tcp,tcp6}", Doc: "Remote ends of established TCP connections as address:port; loopback left out."},
		{Name: "network.rx", Key: 72, Unit: "B/s", Kind: Int, Cadence: Fast, Source: "/proc/net/dev", Doc: "Bytes received a second over all interfaces but loopback (proc(5))."},
		{Name: "network.tx", Key: 73, Unit: "B/s", Kind: Int, Cadence: Fast, Source: "/proc/net/dev", Doc: "Bytes sent a second over all interfaces but loopback (proc(5))."},
		{Name: "service.active", Key: 80, Kind: Set, Cadence: Slow, Source: "D-Bus org.freedesktop.systemd1.Manager ListUnitsByPatterns, *.service active", Doc: "Active systemd services."},
		{Name: "service.failed", Key: 81, Kind: Set, Cadence: Slow, Source: "D-Bus org.freedesktop.systemd1.Manager ListUnitsByPatterns, *.service failed", Doc: "Failed systemd services."},
		{Name: "process.count", Key: 85, Unit: "1", Kind: Int, Cadence: Fast, Source: "/proc/loadavg, fourth field", Doc: "Scheduling entities (processes and threads) that exist (proc(5))."},
		{Name: "integrity.ima_count", Key: 90, Unit: "1", Kind: Int, Cadence: Slow, Source: "/sys/kernel/security/ima/runtime_measurements_count", Doc: "Entries of the IMA measurement list (kernel, security/integrity/ima)."},
		{Name: "integrity.ima_violations", Key: 91, Unit: "1", Kind: Int, Cadence: Slow, Source: "/sys/kernel/security/ima/violations", Doc: "Measurements that IMA could not take because a file changed while in use (kernel, security/integrity/ima)."},
		{Name: "integrity.modules", Key: 92, Kind: Set, Cadence: Slow, Source: "/proc/modules", Doc: "Loaded kernel modules."},
		{Name: "integrity.lockdown", Key: 93, Kind: Text, Cadence: Slow, Source: "/sys/kernel/security/lockdown", Doc: "Active lockdown level: none, integrity or confidentiality (kernel_lockdown(7))."},
		{Name: "integrity.taint", Key: 94, Unit: "1", Kind: Int, Cadence: Fast, Source: "/proc/sys/kernel/tainted", Doc: "Taint bits of the kernel (kernel, admin-guide/tainted-kernels)."},
		{Name: "integrity.tamper", Key: 95, Kind: Bool, Cadence: Fast, Source: "/sys/class/hwmon/*/intrusion*_alarm", Doc: "A chassis intrusion input is latched (kernel, hwmon/sysfs-interface)."},
		{Name: "time.synchronised", Key: 100, Kind: Bool, Cadence: Slow, Source: "adjtimex(2) STA_UNSYNC", Doc: "The kernel's clock is disciplined by a time source."},
		{Name: "time.operating_hours", Key: 101, Unit: "h", Kind: Int, Cadence: Slow, Source: "the agent's state directory and CLOCK_BOOTTIME", Doc: "Hours this device has run, over all boots in which the agent ran; a power cut loses at most 10 min."},
		{Name: "software.kernel", Key: 110, Kind: Text, Cadence: Boot, Source: "/proc/sys/kernel/osrelease", Doc: "Release of the running kernel."},
		{Name: "software.os", Key: 111, Kind: Text, Cadence: Boot, Source: "/etc/os-release ID, VERSION_ID; else /usr/lib/os-release", Doc: "Operating system and its version (os-release(5))."},
		{Name: "software.firmware", Key: 112, Kind: Text, Cadence: Boot, Source: "/sys/class/dmi/id/bios_version; /proc/device-tree/chosen/bootloader/version; /proc/device-tree/model", Doc: "Version of the platform's firmware."},
		{Name: "software.agent", Key: 113, Kind: Text, Cadence: Boot, Source: "build information of factsd", Doc: "Version of the measuring agent."},
		{Name: "software.last_update", Key: 114, Unit: "s", Kind: Int, Cadence: Slow, Source: "modification time of /var/lib/dpkg/status, /var/lib/opkg/status, /etc/os-release", Doc: "When the software was last changed, in seconds since 1970."},
	}
}
