package rediscache_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/rediscache"
	"github.com/gaesession/gaesession/tier"
)

// certificate writes a self-signed certificate of 127.0.0.1 that is valid until then,
// and its key, to files, and adds it to the pool.
func certificate(tb testing.TB, pool *x509.CertPool, until time.Time) (cert, key string) {
	tb.Helper()
	must := func(err error) {
		if err != nil {
			tb.Helper()
			tb.Fatal(err)
		}
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	must(err)
	parsed, err := x509.ParseCertificate(der)
	must(err)
	pool.AddCert(parsed)
	pkcs, err := x509.MarshalPKCS8PrivateKey(private)
	must(err)
	dir := tb.TempDir()
	cert, key = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	must(os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs}), 0o600))
	return cert, key
}

// A certificate that expires leaves connections as they are, and allows no new ones.
func TestAServerWithTLSWhoseCertificateChanges(t *testing.T) {
	t.Parallel()
	pool := x509.NewCertPool()
	cert, key := certificate(t, pool, time.Now().Add(time.Hour))
	port := freePort(t)
	s := newServer(t, "--tls-port", strconv.Itoa(port), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
	o := rediscache.ClientOptions(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	o.TLSConfig = &tls.Config{RootCAs: pool}
	client := redis.NewClient(o)
	t.Cleanup(func() { _ = client.Close() })
	c := newCache(t, client)
	c.set("id", "x")
	old := c.get("id")
	c.swap("id", old, "y", tier.Stored)
	old = c.get("id")

	expired, expiredKey := certificate(t, pool, time.Now().Add(-time.Minute))
	s.do("config", "set", "tls-cert-file", expired, "tls-key-file", expiredKey)
	c.wants("id", "y", "on the connection that is there")
	s.do("client", "kill", "type", "normal", "skipme", "yes")
	if _, err := c.Get(ctx, "id"); err == nil { // with TLS the client learns it by a call
		t.Error("the connection is still there, so this test shows nothing")
	}
	for name, call := range c.calls(old) {
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		if err := call(limited); !errors.Is(err, tier.ErrUnreachable) {
			t.Errorf("%s: %v, want ErrUnreachable", name, err)
		}
		cancel()
	}

	renewed, renewedKey := certificate(t, pool, time.Now().Add(time.Hour))
	s.do("config", "set", "tls-cert-file", renewed, "tls-key-file", renewedKey)
	eventually(t, "the client is connected", func() bool { _, err := c.Get(ctx, "id"); return err == nil })
	c.wants("id", "y", "with a new certificate")
}
