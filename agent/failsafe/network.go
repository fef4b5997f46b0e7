package failsafe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/agent/quarantine"
	"github.com/miotfacts/miotfacts/reference"
)

// peers returns who stays reachable: the verifier as configured, and the peers
// that the manifest declares.
func (h *hands) peers(r reference.Reaction) ([]quarantine.Peer, error) {
	if len(h.verifier) == 0 {
		return nil, errors.New("no address of the verifier is configured: nobody could be told any more")
	}
	peers := slices.Clone(h.verifier)
	for _, text := range r.Peers {
		network, port, err := reference.ParsePeer(text)
		if err != nil {
			return nil, err
		}
		peers = append(peers, quarantine.Peer{Net: network, Port: port})
	}
	return peers, nil
}

// inNetwork refuses to close another network than the device's: in a namespace
// of its own the enforcer would only shut itself in, and take that for done.
func (h *hands) inNetwork() error {
	name := "/proc/thread-self/ns/net"
	if h.filter.Socket != nil {
		const network = 0x894c // SIOCGSKNS (linux/sockios.h): the namespace of a socket
		fd, err := unix.IoctlRetInt(int(h.filter.Socket.Fd()), network)
		if err != nil {
			return fmt.Errorf("cannot tell the network of the socket: %w", err)
		}
		defer unix.Close(fd)
		name = fmt.Sprintf("/proc/thread-self/fd/%d", fd)
	}
	own, err := os.Readlink(name)
	if err != nil {
		return fmt.Errorf("cannot tell the own network: %w", err)
	}
	theirs, err := os.Readlink(h.network)
	if err != nil {
		return fmt.Errorf("cannot tell the device's network: %w", err)
	}
	if own != theirs {
		return errors.New("the enforcer is not in the device's network: its unit needs quarantine.conf")
	}
	return nil
}

func (h *hands) quarantine(ctx context.Context, r reference.Reaction, before func(...string) error) (string, error) {
	peers, err := h.peers(r)
	if err == nil {
		err = h.inNetwork()
	}
	if err == nil {
		err = before()
	}
	if err == nil {
		err = h.filter.Close(ctx, peers)
	}
	if err != nil {
		return "", err
	}
	closed, err := h.filter.Closed(ctx, peers)
	if err == nil && !closed {
		err = errors.New("the kernel does not hold the rules that were given")
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("closed but for %v", peers), nil
}

func (h *hands) open(ctx context.Context) (string, error) {
	if err := h.inNetwork(); err != nil {
		return "", err
	}
	if err := h.filter.Open(ctx); err != nil {
		return "", err
	}
	present, err := h.filter.Present(ctx)
	if err == nil && present {
		err = errors.New("the table is still there")
	}
	if err != nil {
		return "", err
	}
	return "opened", nil
}

// VerifierPeers reads the verifier's addresses. Without any, that of the broker
// counts where it is a number and another machine's.
func VerifierPeers(configured []string, broker string) ([]quarantine.Peer, error) {
	if len(configured) == 0 {
		a, err := netip.ParseAddrPort(broker)
		if err != nil {
			return nil, nil
		}
		if _, _, err := reference.ParsePeer(a.String()); err != nil {
			return nil, nil
		}
		configured = []string{a.String()}
	}
	var out []quarantine.Peer
	for _, text := range configured {
		network, port, err := reference.ParsePeer(text)
		if err != nil {
			return nil, err
		}
		out = append(out, quarantine.Peer{Net: network, Port: port})
	}
	return out, nil
}
