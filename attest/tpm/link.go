package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"
)

const (
	headerSize  = 10   // of commands and responses: tag, size, code (part 1, 18)
	maxResponse = 4096 // MAX_RESPONSE_SIZE of the PC Client platform
)

// A link carries commands to a TPM, one at a time.
type link interface {
	Send(command []byte) ([]byte, error)
	io.Closer
}

func dial(addr string, timeout time.Duration) (link, error) {
	if network, address, ok := strings.Cut(addr, ":"); ok && (network == "unix" || network == "tcp") {
		return retrying{socket{network: network, address: address, timeout: timeout}, timeout}, nil
	}
	if !strings.HasPrefix(addr, "/") {
		return nil, errors.New(`want "/dev/tpmrm0", "unix:PATH" or "tcp:HOST:PORT"`)
	}
	info, err := os.Stat(addr)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoTPM, err)
	}
	if err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeCharDevice == 0 {
		return nil, fmt.Errorf("%s is not a character device", addr)
	}
	// Not by way of os.File: a read before the response is there would return
	// zero bytes, which is its end of file.
	fd, err := unix.Open(addr, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("%w: %w", ErrNoTPM, err)
	}
	if err != nil {
		return nil, err
	}
	return retrying{&device{fd: fd, timeout: timeout}, timeout}, nil
}

// limit is how long a command may take. The kernel too allows ten times the usual
// for making a key (TPM2_DURATION_LONG_LONG).
func limit(command []byte, timeout time.Duration) time.Time {
	if len(command) >= headerSize && tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == tpm2.TPMCCCreatePrimary {
		timeout *= 10
	}
	return time.Now().Add(timeout)
}

// retrying repeats a command for as long as it may take when the TPM says "not
// now": TPM_RC_RETRY, YIELDED, NV_RATE, TESTING (part 2, 6.6.3).
type retrying struct {
	link
	timeout time.Duration
}

func (r retrying) Send(command []byte) ([]byte, error) {
	deadline := limit(command, r.timeout)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		response, err := r.link.Send(command)
		if err != nil {
			return nil, err
		}
		if len(response) < headerSize || int(binary.BigEndian.Uint32(response[2:])) != len(response) {
			return nil, fmt.Errorf("response of %d bytes is cut", len(response))
		}
		switch rc := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])); rc {
		case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCNVRate, tpm2.TPMRCTesting:
			if time.Until(deadline) < pause {
				return nil, fmt.Errorf("the TPM stays busy: %w", rc)
			}
			time.Sleep(pause)
		default:
			return response, nil
		}
	}
}

// A device is a character device of the kernel. Opened without blocking, a write
// returns at once and poll tells when there is a response (since Linux 4.20; an
// older kernel waits in write). While the kernel waits for the TPM itself, its
// own time limits hold.
type device struct {
	fd      int
	timeout time.Duration
	late    bool // the response to the command before is still to come
}

func (d *device) Send(command []byte) ([]byte, error) {
	deadline := limit(command, d.timeout)
	if d.late {
		if _, err := d.receive(deadline); err != nil {
			return nil, fmt.Errorf("cannot read late response: %w", err)
		}
		d.late = false
	}
	if _, err := unix.Write(d.fd, command); err != nil {
		return nil, fmt.Errorf("cannot send command: %w", err)
	}
	response, err := d.receive(deadline)
	if err != nil {
		d.late = errors.Is(err, os.ErrDeadlineExceeded)
		return nil, fmt.Errorf("cannot read response: %w", err)
	}
	return response, nil
}

func (d *device) receive(deadline time.Time) ([]byte, error) {
	for {
		wait := time.Until(deadline)
		if wait <= 0 {
			return nil, os.ErrDeadlineExceeded
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}, int(wait.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
		if n > 0 {
			break
		}
	}
	response := make([]byte, maxResponse)
	n, err := unix.Read(d.fd, response)
	if err != nil {
		return nil, err
	}
	return response[:n], nil
}

func (d *device) Close() error { return unix.Close(d.fd) }

// A socket is that of a swtpm. It serves one connection after the other, so each
// command has its own: several processes can share it, and it may restart.
type socket struct {
	network, address string
	timeout          time.Duration
}

func (s socket) Send(command []byte) ([]byte, error) {
	deadline := limit(command, s.timeout)
	conn, err := (&net.Dialer{Deadline: deadline}).Dial(s.network, s.address)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: %w", ErrNoTPM, err)
	}
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if _, err := conn.Write(command); err != nil {
		return nil, fmt.Errorf("cannot send command: %w", err)
	}
	response := make([]byte, headerSize, maxResponse)
	if _, err := io.ReadFull(conn, response); err != nil {
		return nil, fmt.Errorf("cannot read response: %w", err)
	}
	size := binary.BigEndian.Uint32(response[2:])
	if size < headerSize || size > maxResponse {
		return nil, fmt.Errorf("cannot read response: size %d is outside %d to %d", size, headerSize, maxResponse)
	}
	response = response[:size]
	if _, err := io.ReadFull(conn, response[headerSize:]); err != nil {
		return nil, fmt.Errorf("cannot read response: %w", err)
	}
	return response, nil
}

func (socket) Close() error { return nil }
