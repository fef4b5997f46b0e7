package linux

import (
	"bytes"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// routeGroups are the multicast groups of rtnetlink(7) that are listened to.
const routeGroups = 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) | 1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1)

// openRouteEvents listens to changes of links, addresses and routes.
func openRouteEvents() (*channel, error) {
	fd, err := listenNetlink(unix.NETLINK_ROUTE, routeGroups)
	if err != nil {
		return nil, err
	}
	return &channel{name: "rtnetlink", fd: fd, poll: unix.EPOLLIN, topics: of(topicAddresses, topicRoutes, topicWireless), take: func(fd int, buf []byte) (hits, bool, error) {
		return receive(fd, buf, parseRouteEvents)
	}}, nil
}

// openUevents listens to what the kernel tells udev of devices.
func openUevents() (*channel, error) {
	fd, err := listenNetlink(unix.NETLINK_KOBJECT_UEVENT, 1) // group 1 is the kernel's own
	if err != nil {
		return nil, err
	}
	all := hits(0)
	for _, s := range subsystems {
		all |= s.topics
	}
	return &channel{name: "uevent", fd: fd, poll: unix.EPOLLIN, topics: all, take: func(fd int, buf []byte) (hits, bool, error) {
		return receive(fd, buf, func(b []byte) (hits, bool) { return parseUevent(b), false })
	}}, nil
}

func listenNetlink(protocol int, groups uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// receive takes the datagrams that fit into one look: as many as their number
// of buffers allows, so that a storm cannot hold it.
func receive(fd int, buf []byte, parse func([]byte) (hits, bool)) (h hits, lost bool, err error) {
	for range 64 {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		switch err {
		case nil:
		case unix.EAGAIN, unix.EINTR:
			return h, lost, nil
		case unix.ENOBUFS: // the socket goes on, without what did not fit
			return h, true, nil
		default:
			return h, lost, err
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue // not from the kernel
		}
		more, bad := parse(buf[:n])
		h, lost = h|more, lost || bad
	}
	return h, lost, nil
}

// parseRouteEvents returns what the messages of one datagram are about;
// rtnetlink(7). What has not its form counts as lost.
func parseRouteEvents(b []byte) (h hits, lost bool) {
	for len(b) > 0 {
		if len(b) < diagHeader {
			return h, true
		}
		size := int(binary.NativeEndian.Uint32(b))
		if size < diagHeader || size > len(b) {
			return h, true
		}
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			h |= of(topicAddresses, topicRoutes, topicWireless)
		case unix.RTM_NEWADDR, unix.RTM_DELADDR:
			h |= of(topicAddresses)
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			// struct rtmsg has the table as its fifth byte; the local one follows from the addresses.
			if size < diagHeader+unix.SizeofRtMsg || b[diagHeader+4] != unix.RT_TABLE_LOCAL {
				h |= of(topicRoutes)
			}
		case unix.NLMSG_OVERRUN:
			lost = true
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return h, lost
}

// subsystems tells which facts the devices of a subsystem of the kernel change.
var subsystems = []struct {
	name   string
	topics hits
}{
	{"usb", of(topicUSB)},
	{"net", of(topicWireless)},
	{"ieee80211", of(topicWireless)},
	{"bluetooth", of(topicBluetooth)},
	{"module", of(topicModules)},
	{"power_supply", of(topicSupplies)},
	{"block", of(topicVerity)},
}

// parseUevent returns what one message of the kernel to udev is about: fields
// KEY=value that end with NUL, after a heading "action@device path" (kernel,
// lib/kobject_uevent.c).
func parseUevent(b []byte) (h hits) {
	for field := range bytes.SplitSeq(b, []byte{0}) {
		name, ok := bytes.CutPrefix(field, []byte("SUBSYSTEM="))
		if !ok {
			continue
		}
		if i := slices.IndexFunc(subsystems, func(s struct {
			name   string
			topics hits
		}) bool {
			return s.name == string(name)
		}); i >= 0 {
			h |= subsystems[i].topics
		}
	}
	return h
}
