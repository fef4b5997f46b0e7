package linux

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

// A tree is a fixture that a test changes between rounds.
type tree struct {
	t    *testing.T
	dir  string
	root *Root
	now  int64 // the clock in ns; the test moves it
	list []facts.Source
}

func newTree(t *testing.T, files map[string]string) *tree {
	t.Helper()
	x := &tree{t: t, dir: t.TempDir()}
	x.write(files)
	x.root = openRoot(t, x.dir)
	x.root.now = func() int64 { return x.now }
	x.list = mustSources(t, x.root, fixtureOptions)
	return x
}

func (x *tree) write(files map[string]string) {
	x.t.Helper()
	for p, content := range files {
		p = filepath.Join(x.dir, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			x.t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			x.t.Fatal(err)
		}
	}
}

func (x *tree) remove(path string) {
	x.t.Helper()
	if err := os.RemoveAll(filepath.Join(x.dir, path)); err != nil {
		x.t.Fatal(err)
	}
}

// round moves the clock by a time, reads all and wants facts to be as in want:
// "cpu.usage": "ok 500", "energy.power": "pending".
func (x *tree) round(after time.Duration, want map[string]string) {
	x.t.Helper()
	x.now += int64(after)
	got := readAll(x.t, x.list, 1)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		r := got[name]
		text := r.Status.String()
		if r.Status == facts.OK {
			text += " " + r.Value.String()
		}
		if text != want[name] {
			x.t.Errorf("%s: %s %s, want %s", name, text, r.Reason, want[name])
		}
	}
}

func procStat(user, idle int) string { return fmt.Sprintf("cpu %d 0 0 %d 0 0 0 0 0 0\n", user, idle) }

func psi(total int) string {
	return fmt.Sprintf("some avg10=0.00 avg60=0.00 avg300=0.00 total=%d\n", total)
}

func TestRates(t *testing.T) {
	eth := func(rx, tx int) string { return fmt.Sprintf("eth0: %d 0 0 0 0 0 0 0 %d 0 0 0 0 0 0 0\n", rx, tx) }
	wlan := func(rx, tx int) string { return fmt.Sprintf("wlan0: %d 0 0 0 0 0 0 0 %d 0 0 0 0 0 0 0\n", rx, tx) }
	const throttle = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
	x := newTree(t, map[string]string{
		"proc/stat": procStat(100, 900), "proc/pressure/cpu": psi(0), "proc/net/dev": netDevHead + eth(1000, 5000), throttle: "4\n",
	})
	x.round(0, map[string]string{"cpu.usage": "pending", "cpu.pressure": "pending", "network.rx": "pending", "network.tx": "pending", "cpu.throttled": "pending"})

	x.write(map[string]string{"proc/stat": procStat(125, 975), "proc/pressure/cpu": psi(500_000), "proc/net/dev": netDevHead + eth(3000, 5001), throttle: "10\n"})
	x.round(2*time.Second, map[string]string{"cpu.usage": "ok 250", "cpu.pressure": "ok 250", "network.rx": "ok 1000", "network.tx": "ok 0", "cpu.throttled": "ok 3"})

	// An interface that comes does not count with all that it ever sent; one event in a minute is not none.
	x.write(map[string]string{"proc/stat": procStat(125, 975), "proc/pressure/cpu": psi(100_000_000), "proc/net/dev": netDevHead + wlan(1<<30, 1<<30) + eth(63000, 5001), throttle: "11\n"})
	x.round(time.Minute, map[string]string{"cpu.usage": "pending", "cpu.pressure": "ok 1000", "network.rx": "ok 1000", "network.tx": "ok 0", "cpu.throttled": "ok 1"})

	// A counter that goes back gives no rate, and the round after it a true one.
	x.write(map[string]string{"proc/stat": procStat(10, 90), "proc/pressure/cpu": psi(5), "proc/net/dev": netDevHead + wlan(1<<30+10, 1<<30) + eth(10, 5), throttle: "0\n"})
	x.round(time.Second, map[string]string{"cpu.usage": "pending", "cpu.pressure": "pending", "network.rx": "ok 10", "network.tx": "ok 0", "cpu.throttled": "pending"})
	x.write(map[string]string{"proc/stat": procStat(110, 90), "proc/pressure/cpu": psi(5), "proc/net/dev": netDevHead + eth(20, 5)})
	x.round(time.Second, map[string]string{"cpu.usage": "ok 1000", "cpu.pressure": "ok 0", "network.rx": "ok 10", "cpu.throttled": "ok 0"})
}

func TestEnergy(t *testing.T) {
	const zone, memory, core = "sys/class/powercap/intel-rapl:0", "sys/class/powercap/intel-rapl:0:2", "sys/class/powercap/intel-rapl:0:0"
	rapl := func(dir, name string, uj int) map[string]string {
		return map[string]string{dir + "/name": name + "\n", dir + "/energy_uj": fmt.Sprintln(uj), dir + "/max_energy_range_uj": "100000000\n"}
	}
	x := newTree(t, rapl(zone, "package-0", 99_000_000))
	x.write(rapl(memory, "dram", 1_000_000))
	x.write(rapl(core, "core", 5_000_000)) // part of the package
	x.round(0, map[string]string{"energy.power": "pending", "energy.used": "ok 0"})

	// The package's counter wraps: 1 J to its end and 2 J from its beginning; the memory used 1 J.
	x.write(rapl(zone, "package-0", 2_000_000))
	x.write(rapl(memory, "dram", 2_000_000))
	x.write(rapl(core, "core", 95_000_000))
	x.round(2*time.Second, map[string]string{"energy.power": "ok 2000", "energy.used": "ok 4000"})

	// A round without one counter is made up for in the next.
	x.write(map[string]string{memory + "/energy_uj": "?\n", zone + "/energy_uj": "3000000\n"})
	x.round(time.Second, map[string]string{"energy.power": "malformed", "energy.used": "malformed"})
	x.write(map[string]string{memory + "/energy_uj": "3000000\n", zone + "/energy_uj": "4000000\n"})
	x.round(time.Second, map[string]string{"energy.power": "ok 1500", "energy.used": "ok 7000"})

	// The whole platform, once it is there, takes the place of its parts.
	x.write(rapl("sys/class/powercap/intel-rapl:1", "psys", 10_000_000))
	x.round(time.Minute, map[string]string{"energy.power": "ok 0", "energy.used": "ok 7000"})
	x.write(rapl("sys/class/powercap/intel-rapl:1", "psys", 15_000_000))
	x.round(time.Second, map[string]string{"energy.power": "ok 5000", "energy.used": "ok 12000"})

	// A hwmon counter counts before RAPL, and has no end to wrap at.
	h := newTree(t, rapl(zone, "package-0", 1))
	h.write(map[string]string{"sys/class/hwmon/hwmon0/name": "ina228\n", "sys/class/hwmon/hwmon0/energy1_input": "5000000\n"})
	h.round(0, map[string]string{"energy.used": "ok 0"})
	h.write(map[string]string{"sys/class/hwmon/hwmon0/energy1_input": "6000000\n"})
	h.round(time.Second, map[string]string{"energy.power": "ok 1000", "energy.used": "ok 1000"})
	h.write(map[string]string{"sys/class/hwmon/hwmon0/energy1_input": "0\n"})
	h.round(time.Second, map[string]string{"energy.power": "malformed", "energy.used": "malformed"})
	h.write(map[string]string{"sys/class/hwmon/hwmon0/energy1_input": "500000\n"})
	h.round(time.Second, map[string]string{"energy.power": "ok 500", "energy.used": "ok 1500"})
}

// TestEnergyFromPower integrates the power sensors of a device that counts no
// energy, and tells of which time nothing is known.
func TestEnergyFromPower(t *testing.T) {
	const dev = "sys/class/hwmon/hwmon0"
	x := newTree(t, map[string]string{dev + "/name": "ina226\n", dev + "/power1_input": "2000000\n"})
	x.round(time.Second, map[string]string{"energy.power": "ok 2000", "energy.used": "ok 0", "energy.gaps": "ok 0"})
	x.write(map[string]string{dev + "/power1_input": "4000000\n"})
	x.round(time.Second, map[string]string{"energy.used": "ok 3000", "energy.gaps": "ok 0"})
	x.round(2*time.Second, map[string]string{"energy.used": "ok 11000"})

	// A sample that is missing leaves a gap from the one before to the one after.
	x.write(map[string]string{dev + "/power1_input": "?\n"})
	x.round(time.Second, map[string]string{"energy.used": "malformed", "energy.gaps": "malformed"})
	x.round(time.Second, map[string]string{"energy.used": "malformed", "energy.gaps": "malformed"})
	x.write(map[string]string{dev + "/power1_input": "1000000\n"})
	x.round(time.Second, map[string]string{"energy.used": "ok 11000", "energy.gaps": "ok 3000"})
	x.round(time.Second, map[string]string{"energy.used": "ok 12000", "energy.gaps": "ok 3000"})

	// So does a round that comes late; 10 s are not yet late.
	x.round(10*time.Second, map[string]string{"energy.used": "ok 22000", "energy.gaps": "ok 3000"})
	x.round(11*time.Second, map[string]string{"energy.used": "ok 22000", "energy.gaps": "ok 14000"})

	// A sensor that fails from the beginning leaves a gap from there.
	y := newTree(t, map[string]string{dev + "/name": "ina226\n", dev + "/power1_input": "?\n"})
	y.round(time.Second, map[string]string{"energy.used": "malformed"})
	y.write(map[string]string{dev + "/power1_input": "1000000\n"})
	y.round(3*time.Second, map[string]string{"energy.used": "ok 0", "energy.gaps": "ok 3000"})

	x.remove(dev)
	x.round(time.Minute, nil)
	x.round(time.Minute, map[string]string{"energy.power": "absent", "energy.used": "absent", "energy.gaps": "absent"})
}

// TestComputedPower multiplies where a monitor measures no power, and only what
// belongs together.
func TestComputedPower(t *testing.T) {
	const dev = "sys/class/hwmon/hwmon0/"
	rails := map[string]string{
		dev + "name": "ina3221\n", dev + "curr1_input": "200\n", dev + "in1_input": "12000\n", dev + "curr2_input": "100\n", dev + "in2_input": "5000\n",
		dev + "curr4_input": "300\n", dev + "in5_input": "7\n", // the sum, and a shunt
	}
	pmbus := map[string]string{
		dev + "name": "tps53679\n", dev + "curr1_label": "iin\n", dev + "curr1_input": "2000\n", dev + "curr2_label": "iout1\n", dev + "curr2_input": "9000\n",
		dev + "in1_label": "vout1\n", dev + "in1_input": "1000\n", dev + "in2_label": "vin\n", dev + "in2_input": "12000\n",
	}
	with := func(base map[string]string, more map[string]string) map[string]string {
		out := maps.Clone(base)
		maps.Copy(out, more)
		return out
	}
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  map[string]string
	}{
		{"rails", rails, map[string]string{"energy.power": "ok 2900", "energy.computed": "ok true", "energy.gaps": "ok 0"}},
		{"rails, one of them the input", with(rails, map[string]string{dev + "in1_label": "VDD_IN\n"}), map[string]string{"energy.power": "ok 2400", "energy.computed": "ok true"}},
		{"rails, a label that is none", with(rails, map[string]string{dev + "in1_label": "\n"}), map[string]string{"energy.power": "malformed", "energy.computed": "malformed"}},
		{"rails, no voltage", with(rails, map[string]string{dev + "in2_input": "?\n"}), map[string]string{"energy.power": "malformed", "energy.used": "malformed", "energy.computed": "malformed"}},
		{"rails, beyond", with(rails, map[string]string{dev + "curr2_input": "9000000000\n"}), map[string]string{"energy.power": "malformed"}},
		{"a power too", with(rails, map[string]string{dev + "power1_input": "1000000\n"}), map[string]string{"energy.power": "ok 1000", "energy.computed": "ok false"}},
		{"PMBus", pmbus, map[string]string{"energy.power": "ok 24000", "energy.computed": "ok true"}},
		{"PMBus, its power", with(pmbus, map[string]string{dev + "power1_label": "pin\n", dev + "power1_input": "25000000\n", dev + "power2_label": "pout1\n", dev + "power2_input": "9000000\n"}),
			map[string]string{"energy.power": "ok 25000", "energy.computed": "ok false"}},
		{"a fan's current", map[string]string{dev + "name": "board\n", dev + "curr1_input": "100\n", dev + "in1_input": "5000\n"}, map[string]string{"energy.power": "absent", "energy.computed": "absent"}},
	} {
		t.Run(tt.name, func(t *testing.T) { newTree(t, tt.files).round(0, tt.want) })
	}

	x := newTree(t, rails)
	x.round(0, map[string]string{"energy.used": "ok 0"})
	x.write(map[string]string{dev + "curr1_input": "400\n"}) // 5.3 W
	x.round(2*time.Second, map[string]string{"energy.power": "ok 5300", "energy.used": "ok 8200"})
}

func TestSupplies(t *testing.T) {
	const class = "sys/class/power_supply/"
	bat := func(n string, files map[string]string) map[string]string {
		m := map[string]string{class + n + "/type": "Battery\n"}
		for k, v := range files {
			m[class+n+"/"+k] = v + "\n"
		}
		return m
	}
	x := newTree(t, bat("BAT0", map[string]string{"capacity": "80", "energy_full": "45000000", "energy_full_design": "50000000", "cycle_count": "7"}))
	x.write(bat("BAT1", map[string]string{"capacity": "90", "charge_full": "2000", "charge_full_design": "4000", "cycle_count": "9"}))
	x.write(map[string]string{class + "AC/type": "Mains\n", class + "AC/online": "0\n"})
	x.round(0, map[string]string{"energy.battery": "ok 800", "energy.battery_health": "ok 500", "energy.cycles": "ok 9", "energy.mains": "ok false"})
	x.write(map[string]string{class + "usb/type": "USB\n", class + "usb/online": "2\n"})
	x.round(0, map[string]string{"energy.mains": "ok true"})
	x.write(map[string]string{class + "usb/online": "3\n", class + "BAT1/charge_full_design": "0\n", class + "BAT0/cycle_count": "-1\n", class + "BAT0/capacity": "101\n"})
	x.round(0, map[string]string{"energy.battery": "malformed", "energy.battery_health": "malformed", "energy.cycles": "malformed", "energy.mains": "malformed"})
	x.remove(class + "BAT0")
	x.remove(class + "usb")
	x.write(map[string]string{class + "BAT1/present": "0\n"})
	x.round(0, map[string]string{"energy.battery": "absent", "energy.battery_health": "absent", "energy.cycles": "absent", "energy.mains": "ok false"})
	x.write(map[string]string{class + "AC/type": "\n"})
	x.round(0, map[string]string{"energy.battery": "malformed", "energy.mains": "malformed"})
}

func TestClock(t *testing.T) {
	const rtc = "sys/class/rtc/rtc0/since_epoch"
	x := newTree(t, map[string]string{".calls/clock": "1760000000000\n", "proc/uptime": "100.00 0.00\n", rtc: "1760000103\n"})
	x.round(0, map[string]string{"time.jumps": "ok 0", "time.rtc": "ok 3"})
	// Half a second, and a tenth of the time, may be slewing; it does not add up over rounds.
	for _, began := range []int64{1760000000550, 1760000001100, 1760000000550} {
		x.write(map[string]string{".calls/clock": fmt.Sprintln(began)})
		x.round(500*time.Millisecond, map[string]string{"time.jumps": "ok 0"})
	}
	x.write(map[string]string{".calls/clock": "1760000000000\n"})
	x.round(499*time.Millisecond, map[string]string{"time.jumps": "ok 1"})
	x.write(map[string]string{".calls/clock": "1790000000000\n", rtc: "0\n"})
	x.round(time.Second, map[string]string{"time.jumps": "ok 2", "time.rtc": "ok -1790000100"})
	x.write(map[string]string{".calls/clock": "?\n"})
	x.round(time.Second, map[string]string{"time.jumps": "malformed", "time.rtc": "malformed"})
	x.write(map[string]string{".calls/clock": "1790000000000\n", rtc: "-1\n"})
	x.round(time.Second, map[string]string{"time.jumps": "ok 2", "time.rtc": "malformed"})
}

func TestModes(t *testing.T) {
	stat := func(n ...int) string { return "cpu " + strings.Trim(fmt.Sprint(n), "[]") + " 0 0\n" }
	x := newTree(t, map[string]string{"proc/stat": stat(10, 10, 10, 100, 50, 5, 5, 10), "proc/schedstat": "version 15\ncpu0 0 0 0 0 0 0 0 1000000 0\n"})
	x.round(0, map[string]string{"cpu.user": "pending", "cpu.wait": "pending"})
	x.write(map[string]string{"proc/stat": stat(20, 20, 20, 130, 70, 10, 15, 15), "proc/schedstat": "version 15\ncpu0 0 0 0 0 0 0 0 1501000000 0\n"})
	x.round(time.Second, map[string]string{"cpu.usage": "ok 500", "cpu.user": "ok 200", "cpu.system": "ok 100", "cpu.iowait": "ok 200", "cpu.irq": "ok 150", "cpu.steal": "ok 50", "cpu.wait": "ok 1500"})
	// iowait goes back a little: no time waited, and the idle time is less by it.
	x.write(map[string]string{"proc/stat": stat(20, 20, 25, 140, 65, 10, 15, 15)})
	x.round(time.Second, map[string]string{"cpu.usage": "ok 333", "cpu.system": "ok 333", "cpu.iowait": "ok 0", "cpu.wait": "ok 0"})
	// A processor that leaves takes its times along, also where their sum has grown.
	x.write(map[string]string{"proc/stat": stat(10, 20, 95, 140, 65, 10, 15, 15)})
	x.round(time.Second, map[string]string{"cpu.usage": "pending", "cpu.user": "pending"})
}

func TestDevicesOfUSB(t *testing.T) {
	const bus = "sys/bus/usb/devices/"
	x := newTree(t, nil)
	x.round(0, map[string]string{"integrity.devices": "absent", "network.bluetooth": "absent", "network.wireless": "absent"})
	x.write(map[string]string{"sys/bus/pci/x": "", "sys/class/net/lo/operstate": "up\n"})
	x.round(0, map[string]string{"integrity.devices": "ok {}", "network.bluetooth": "ok {}", "network.wireless": "ok {}"})
	x.write(map[string]string{bus + "usb1/idVendor": "1d6b\n", bus + "1-1:1.0/x": "", bus + "1-1/idVendor": "0403\n", bus + "1-1/idProduct": "6001\n", bus + "1-2/x": ""})
	x.write(map[string]string{"sys/class/net/wlp2s0/wireless/x": "", "sys/class/bluetooth/hci0/x": "", "sys/class/bluetooth/hci0:64/x": ""})
	x.round(0, map[string]string{"integrity.devices": "ok {1-1 0403:6001}", "network.bluetooth": "ok {hci0}", "network.wireless": "ok {wlp2s0}"})
	x.write(map[string]string{bus + "1-1/idProduct": "\n"})
	x.round(0, map[string]string{"integrity.devices": "malformed"})
}

func TestSensors(t *testing.T) {
	const a, b = "sys/class/hwmon/hwmon0", "sys/class/hwmon/hwmon1"
	x := newTree(t, map[string]string{
		a + "/name": "ina3221\n", a + "/in1_input": "12000\n", a + "/in2_input": "4990\n", a + "/in5_input": "3\n", a + "/power1_input": "1500000\n",
		a + "/power2_input": "500000\n", a + "/power2_average": "9\n", a + "/power3_average": "1000000\n",
		a + "/in1_lcrit_alarm": "0\n", a + "/in2_lcrit_alarm": "0\n",
		b + "/name": "nct6775\n", b + "/in0_input": "700\n", b + "/temp1_input": "40000\n", b + "/temp2_input": "127000\n", b + "/temp2_fault": "1\n", b + "/temp3_input": "-5000\n",
		"sys/class/thermal/thermal_zone0/temp": "39000\n",
		"sys/class/power_supply/BAT0/type":     "Battery\n", "sys/class/power_supply/BAT0/capacity": "80\n", "sys/class/power_supply/BAT0/voltage_now": "3700999\n",
		"sys/class/power_supply/mouse/type": "Battery\n", "sys/class/power_supply/mouse/capacity": "3\n", "sys/class/power_supply/mouse/scope": "Device\n",
	})
	x.round(0, map[string]string{"energy.power": "ok 3000", "energy.voltage": "ok 3700", "energy.undervoltage": "ok false", "thermal.max": "ok 40000", "energy.battery": "ok 800", "integrity.tamper": "absent"})

	// The fault of a sensor ends, and its value counts again.
	x.write(map[string]string{b + "/temp2_fault": "0\n", a + "/in2_lcrit_alarm": "1\n"})
	x.round(time.Second, map[string]string{"thermal.max": "ok 127000", "energy.undervoltage": "ok true"})

	// One sensor that cannot be trusted to be read spoils the highest of all.
	x.write(map[string]string{b + "/temp1_input": "hot\n", a + "/in2_lcrit_alarm": "2\n"})
	x.round(time.Second, map[string]string{"thermal.max": "malformed", "energy.undervoltage": "malformed"})

	// A device that was added counts after a minute.
	x.write(map[string]string{b + "/temp1_input": "1\n", b + "/temp2_input": "1\n", "sys/class/thermal/thermal_zone1/temp": "55000\n"})
	x.round(time.Second, map[string]string{"thermal.max": "ok 39000"})
	x.round(time.Minute, map[string]string{"thermal.max": "ok 55000"})

	// A reason names the sensor by driver and device, whatever its hwmon number is.
	n := newTree(t, map[string]string{"sys/devices/platform/i2c/1-0040/hwmon/hwmon7/name": "ina226\n", "sys/devices/platform/i2c/1-0040/hwmon/hwmon7/power1_input": "?\n"})
	if err := os.MkdirAll(filepath.Join(n.dir, "sys/class/hwmon"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../devices/platform/i2c/1-0040/hwmon/hwmon7", filepath.Join(n.dir, "sys/class/hwmon/hwmon7")); err != nil {
		t.Fatal(err)
	}
	if r := readAll(t, n.list, 1)["energy.power"]; r.Reason != "ina226 at platform/i2c/1-0040, power1: is not a number" {
		t.Errorf("%+v", r)
	}

	f := newTree(t, map[string]string{b + "/name": "x\n", b + "/temp1_input": "1\n", b + "/temp1_fault": "1\n", b + "/intrusion0_alarm": "1\n"})
	f.round(0, map[string]string{"thermal.max": "unreadable", "integrity.tamper": "ok true"})
}

// TestFileComesBack lets a file appear, vanish and turn unreadable: attempts to
// open are rare, and each state is told for what it is.
func TestFileComesBack(t *testing.T) {
	x := newTree(t, nil)
	const taint = "proc/sys/kernel/tainted"
	x.round(0, map[string]string{"integrity.taint": "absent"})
	x.write(map[string]string{taint: "1\n"})
	x.round(time.Second, map[string]string{"integrity.taint": "absent"})
	x.round(time.Minute, map[string]string{"integrity.taint": "ok 1"})
	x.write(map[string]string{taint: "3\n"})
	x.round(time.Second, map[string]string{"integrity.taint": "ok 3"})

	y := newTree(t, map[string]string{taint + "/x": ""})
	y.round(0, map[string]string{"integrity.taint": "unreadable"})
}

func TestLastUpdateLive(t *testing.T) {
	r := openRoot(t, "/")
	var want int64
	for _, p := range []string{"/var/lib/dpkg/status", "/etc/os-release"} {
		if info, err := os.Stat(p); err == nil {
			want = max(want, info.ModTime().Unix())
		}
	}
	for _, s := range mustSources(t, r, Options{}) {
		if s.Name() == "updates" {
			if got := s.Read(nil)[0]; got.Value.Int() != want || want == 0 {
				t.Errorf("%+v, want %d", got, want)
			}
		}
	}
}

// TestUsageLive compares with statfs(2).
func TestUsageLive(t *testing.T) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/", &fs); err != nil {
		t.Fatal(err)
	}
	want := int64((fs.Blocks - fs.Bfree) * 1000 / (fs.Blocks - fs.Bfree + fs.Bavail))
	got := readAll(t, mustSources(t, openRoot(t, "/"), Options{}), 1)["storage.used"]
	if n := got.Value.Int(); got.Status != facts.OK || n < want-1 || n > want+1 {
		t.Errorf("storage.used is %+v, df says %d", got, want)
	}
}

// TestListeningSocketIsSeen opens real sockets and looks for them with both
// ways of listing.
func TestListeningSocketIsSeen(t *testing.T) {
	for _, way := range []string{"sock_diag", "/proc/net"} {
		t.Run(way, func(t *testing.T) {
			root := openRoot(t, "/")
			src := &listeners{sockets: newSockets(root), ownership: ownership{root: root, dir: "sys/fs/cgroup"}}
			peer := &peers{sockets: newSockets(root)}
			src.sockets.noDiag = way == "/proc/net"
			peer.sockets.noDiag = src.sockets.noDiag
			s := &source{reader: src, out: out{keys: []facts.Key{70, 150}}}
			listed := func(member string) bool {
				t.Helper()
				r := s.Read(nil)[0]
				if r.Status != facts.OK {
					t.Fatalf("%s: %s", r.Status, r.Reason)
				}
				if src.sockets.noDiag != (way == "/proc/net") {
					t.Fatal("this kernel has no sock_diag; it needs CONFIG_INET_DIAG and CONFIG_INET_UDP_DIAG")
				}
				return slices.Contains(r.Value.Set(), member)
			}

			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			u, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			tcp, udp := "tcp/"+l.Addr().String(), "udp/"+u.LocalAddr().String()
			if !listed(tcp) || !listed(udp) {
				t.Errorf("%s or %s is not listed", tcp, udp)
			}
			c, err := net.Dial("udp", u.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if m := "udp/" + c.LocalAddr().String(); listed(m) {
				t.Errorf("%s is listed, but it has a peer", m)
			}
			if l6, err := net.Listen("tcp", "[::1]:0"); err == nil {
				defer l6.Close()
				if m := "tcp/" + l6.Addr().String(); !listed(m) {
					t.Errorf("%s is not listed", m)
				}
			} else {
				t.Logf("no IPv6 here: %v", err)
			}
			l.Close()
			u.Close()
			if listed(tcp) || listed(udp) {
				t.Errorf("%s or %s is listed after it was closed", tcp, udp)
			}
			if r := (&source{reader: peer, out: out{keys: []facts.Key{71}}}).Read(nil)[0]; r.Status != facts.OK {
				t.Errorf("peers: %s %s", r.Status, r.Reason)
			}
		})
	}
}

// TestTooManyMembers wants a set that does not fit to be told, never to be cut.
func TestTooManyMembers(t *testing.T) {
	var b strings.Builder
	for i := range facts.MaxSet + 1 {
		fmt.Fprintf(&b, "m%d 1 0 - Live 0x0\n", i)
	}
	newTree(t, map[string]string{"proc/modules": b.String()}).round(0, map[string]string{"integrity.modules": "malformed"})
}

func TestOpenRootRefuses(t *testing.T) {
	f := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(f, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{f, f + "/x", filepath.Join(t.TempDir(), "nothing")} {
		if r, err := OpenRoot(dir); err == nil {
			t.Errorf("%s was opened: %+v", dir, r)
		}
	}
	r := openRoot(t, t.TempDir())
	if r.Live() {
		t.Error("a fixture is live")
	}
	if l := openRoot(t, "/./"); !l.Live() {
		t.Error("the root /./ is not live")
	}
}

// TestEstimate follows a model by hand: 1.5 W idle, 0.9 J for a second of a
// processor, 2 µJ for a byte.
func TestEstimate(t *testing.T) {
	eth := func(rx, tx int) string {
		return netDevHead + fmt.Sprintf("eth0: %d 0 0 0 0 0 0 0 %d 0 0 0 0 0 0 0\n", rx, tx)
	}
	x := newTree(t, map[string]string{"proc/stat": procStat(100, 900), "proc/net/dev": eth(1000, 0)})
	x.round(0, map[string]string{"energy.estimated_power": "absent", "energy.estimated_used": "absent"})
	opt := fixtureOptions
	opt.EnergyModel = func() (EnergyModel, bool) { return EnergyModel{Idle: 1500, CPU: 900, Network: 2000}, true }
	x.list = mustSources(t, x.root, opt)
	x.round(0, map[string]string{"energy.estimated_power": "pending", "energy.estimated_used": "ok 0"})
	// 2 s idle are 3 J, half a second of a processor 0.45 J, 100,000 bytes 0.2 J.
	x.write(map[string]string{"proc/stat": procStat(150, 1250), "proc/net/dev": eth(61000, 40000)})
	x.round(2*time.Second, map[string]string{"energy.estimated_power": "ok 1825", "energy.estimated_used": "ok 3650"})
	// A round that failed is made up for; of its bytes only those since are known.
	x.write(map[string]string{"proc/stat": "?\n"})
	x.round(time.Second, map[string]string{"energy.estimated_power": "malformed", "energy.estimated_used": "malformed"})
	x.write(map[string]string{"proc/stat": procStat(250, 1350)})
	x.round(time.Second, map[string]string{"energy.estimated_power": "ok 1950", "energy.estimated_used": "ok 7550"})
	// A processor that leaves takes its time along.
	x.write(map[string]string{"proc/stat": procStat(20, 100)})
	x.round(time.Second, map[string]string{"energy.estimated_power": "pending", "energy.estimated_used": "ok 7550"})
}
