package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"syscall"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/test/lab"
)

// attack plays somebody who has taken over the device's connection, and even
// its TLS key, but cannot make it sign what it did not measure.
func (s *story) attack() error {
	s.say("\n6. Attacks on what is on the wire")
	records := s.Reports(s.id)
	if len(records) == 0 {
		return errors.New("the verifier has no report")
	}
	newest := records[0].Sequence
	var message []byte
	if err := s.Get(fmt.Sprintf("/api/devices/%s/reports/%d", s.id, newest), &message); err != nil {
		return err
	}
	s.run.Stop(syscall.SIGTERM) // the attacker takes its place

	changed := bytes.Clone(message)
	changed[len(changed)-1] ^= 1 // in the signature, or in the quote's PCR values
	var m attest.Message
	if err := cose.Decode(message, attest.MaxMessageSize, &m); err != nil {
		return err
	}
	m.Quote = nil
	m.Report[len(m.Report)-1] ^= 1
	if plain, err := cose.Encode(m); err == nil {
		changed = plain
	}
	foreign, err := s.resign(message)
	if err != nil {
		return err
	}
	client, err := s.impersonate()
	if err != nil {
		return err
	}
	for _, a := range []struct {
		what, reason string
		payload      []byte
	}{
		{"one bit changed", "signature", changed},
		{"an old report again", "replay", message},
		{"a report signed by another key", "key", foreign},
	} {
		before := s.Device(s.id).Sequence
		if t := client.Publish(lab.Prefix+"/"+s.id+"/report", 1, false, a.payload); !t.WaitTimeout(5*time.Second) || t.Error() != nil {
			return fmt.Errorf("cannot publish: %v", t.Error())
		}
		text := ""
		ok := s.Until("a refusal for "+a.reason, 5*time.Second, func() bool {
			for _, r := range s.Refused() {
				if r.Device == s.id && r.Reason == a.reason {
					text = r.Text
					return true
				}
			}
			return false
		})
		s.check(ok && s.Device(s.id).Sequence == before, a.what+" is refused ("+a.reason+")", text)
	}
	client.Disconnect(100)
	if err := s.startRun(); err != nil {
		return err
	}
	before := s.Device(s.id).Sequence
	ok := s.Until("the true device to report again", 15*time.Second, func() bool {
		d := s.Device(s.id)
		return d.Sequence > before && d.Stage == "operating"
	})
	s.check(ok, "the true device goes on where it was", fmt.Sprintf("report %d", s.Device(s.id).Sequence))
	return nil
}

// resign makes the claims of a message into the next report, signed by a
// stranger's key.
func (s *story) resign(message []byte) ([]byte, error) {
	u, err := attest.Decode(message)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(s.Path("stranger.key"))
	if err != nil {
		return nil, err
	}
	key, err := cose.ParsePrivateKey(data)
	if err != nil {
		return nil, err
	}
	signer, err := cose.NewSigner(key)
	if err != nil {
		return nil, err
	}
	r := *u.Unverified()
	r.Body.Sequence++
	r.Body.Previous = make([]byte, 32)
	signed, err := attest.Seal(&r, signer)
	if err != nil {
		return nil, err
	}
	return cose.Encode(attest.Message{Report: signed})
}

// impersonate connects with the device's own TLS key.
func (s *story) impersonate() (mqtt.Client, error) {
	var key crypto.Signer
	if s.TPM != "" {
		t, err := tpm.Open(s.TPM)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(s.Ctx, func() { t.Close() })
		if _, err := t.Provision(); err != nil {
			return nil, err
		}
		key = t.Signer()
		defer t.Close()
	} else {
		data, err := os.ReadFile(s.Path("device.key"))
		if err != nil {
			return nil, err
		}
		if key, err = cose.ParsePrivateKey(data); err != nil {
			return nil, err
		}
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: s.id},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(s.Path("verifier/ca.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	o := mqtt.NewClientOptions().AddBroker("tls://" + s.Broker).SetClientID(s.id).SetAutoReconnect(false).
		SetTLSConfig(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	c := mqtt.NewClient(o)
	if t := c.Connect(); !t.WaitTimeout(5*time.Second) || t.Error() != nil {
		return nil, fmt.Errorf("cannot connect as the device: %v", t.Error())
	}
	return c, nil
}
