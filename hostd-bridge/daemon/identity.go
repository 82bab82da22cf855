package daemon

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/containervm/containervm/internal/trusted"
)

// certificateLife is how long a certificate is valid; it is made anew when less than a tenth of that is left.
const certificateLife = 10 * 365 * 24 * time.Hour

// identity is what the daemon is to its clients, over restarts.
type identity struct {
	Username     string `json:"username"`
	Password     string `json:"password"`
	InstanceUUID string `json:"instanceUuid"`

	certificate tls.Certificate
	caFile      string
}

// openIdentity reads the identity in dir, or makes one.
func openIdentity(dir string) (*identity, error) {
	id := &identity{caFile: filepath.Join(dir, "tls", "ca.pem")}
	if err := id.credentials(filepath.Join(dir, "credentials.json")); err != nil {
		return nil, fmt.Errorf("cannot read or make the credentials: %w", err)
	}
	if err := id.loadTLS(filepath.Join(dir, "tls")); err != nil {
		return nil, fmt.Errorf("cannot read or make the TLS certificate: %w", err)
	}
	return id, nil
}

func (id *identity) credentials(path string) error {
	data, err := os.ReadFile(path)
	if err == nil {
		return json.Unmarshal(data, id)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	id.Username, id.Password, id.InstanceUUID = "root", rand.Text(), newUUID()
	if data, err = json.MarshalIndent(id, "", "  "); err != nil {
		return err
	}
	return writeFile(path, data)
}

// newUUID returns a random UUID, version 4 of RFC 9562.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// writeFile puts data at path so that after a crash it is there whole or not at all, for us alone.
func writeFile(path string, data []byte) error { return trusted.WriteFile(path, data, 0o600) }

// loadTLS reads the certificate in dir, or makes an authority and one that it has signed. The authority's key is thrown
// away: it never signs again.
func (id *identity) loadTLS(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	id.certificate, err = tls.LoadX509KeyPair(certFile, keyFile)
	if err == nil && time.Until(id.certificate.Leaf.NotAfter) > certificateLife/10 {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ca, cert, key, err := makeCertificates()
	if err != nil {
		return err
	}
	for path, data := range map[string][]byte{id.caFile: ca, certFile: cert} {
		if err := writeFile(path, data); err != nil {
			return err
		}
	}
	if err := writeFile(keyFile, key); err != nil { // last: a crash before leaves no pair, so it is made again
		return err
	}
	id.certificate, err = tls.X509KeyPair(cert, key)
	return err
}

// makeCertificates returns an authority's certificate, and a certificate and its key for this host, all as PEM.
func makeCertificates() (ca, cert, key []byte, err error) {
	name, err := os.Hostname()
	if err != nil {
		return nil, nil, nil, err
	}
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "containerVM " + name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificateLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		DNSNames: []string{"localhost", name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	caDER, err := x509.CreateCertificate(rand.Reader, authority, authority, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, server, authority, &serverKey.PublicKey, caKey)
	if err != nil {
		return nil, nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(serverKey)
	return block("CERTIFICATE", caDER), block("CERTIFICATE", der), block("PRIVATE KEY", keyDER), err
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func (id *identity) tls() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{id.certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
}

// noHTTP2 keeps the server at HTTP/1.1: the streams of the relay take their connection over, which HTTP/2 has no way to.
func noHTTP2() map[string]func(*http.Server, *tls.Conn, http.Handler) {
	return map[string]func(*http.Server, *tls.Conn, http.Handler){}
}
