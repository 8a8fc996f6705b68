package certs

import (
	"bytes"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"

	"software.sslmate.com/src/go-pkcs12"
)

// storePassword is what every cacerts is locked with; it keeps nobody out and is not meant to.
const storePassword = "changeit"

// canonicalName is a subject as OpenSSL hashes it (x509_name_canon in crypto/x509/x_name.c): the RDNs without their
// outer sequence, strings in UTF-8, in lower case, with single spaces.
func canonicalName(der []byte) ([]byte, error) {
	var name asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &name); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("%w: a subject that is no name", ErrInvalid)
	}
	var out []byte
	for left := name.Bytes; len(left) > 0; {
		var set asn1.RawValue
		var err error
		if left, err = asn1.Unmarshal(left, &set); err != nil {
			return nil, fmt.Errorf("%w: a subject that is no name", ErrInvalid)
		}
		var canon []byte
		for in := set.Bytes; len(in) > 0; {
			var attr struct {
				Type  asn1.ObjectIdentifier
				Value asn1.RawValue
			}
			if in, err = asn1.Unmarshal(in, &attr); err != nil {
				return nil, fmt.Errorf("%w: a subject that is no name", ErrInvalid)
			}
			switch attr.Value.Tag {
			case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, asn1.TagT61String:
				text := strings.Join(strings.FieldsFunc(string(attr.Value.Bytes), func(r rune) bool { return r == ' ' || r >= '\t' && r <= '\r' }), " ")
				attr.Value = asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: bytes.ToLower([]byte(text))}
			}
			b, err := asn1.Marshal(attr)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
			}
			canon = append(canon, b...)
		}
		b, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSet, IsCompound: true, Bytes: canon})
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	return out, nil
}

// A JKS file (sun.security.provider.JavaKeyStore): magic, version, number of entries, the entries, and the SHA-1 of the
// password in UTF-16, a sentence, and all that is before.
const jksHeader = 12

type jksEntry struct {
	raw   []byte // as it stands in the file
	alias string
	cert  []byte // of a trusted certificate, in DER
}

func jksSum(body []byte, password string) []byte {
	h := sha1.New()
	for _, c := range utf16.Encode([]rune(password)) {
		h.Write([]byte{byte(c >> 8), byte(c)})
	}
	h.Write([]byte("Mighty Aphrodite"))
	h.Write(body)
	return h.Sum(nil)
}

// parseJKS reads a store whose password is the usual one.
func parseJKS(b []byte) ([]jksEntry, error) {
	bad := fmt.Errorf("%w: not a Java key store of version 2 with certificates alone", ErrInvalid)
	if len(b) < jksHeader+sha1.Size || !bytes.HasPrefix(b, []byte{0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2}) {
		return nil, bad
	}
	body := b[:len(b)-sha1.Size]
	if !bytes.Equal(jksSum(body, storePassword), b[len(body):]) {
		return nil, fmt.Errorf("%w: the Java key store has another password than %s, or is damaged", ErrInvalid, storePassword)
	}
	count := binary.BigEndian.Uint32(b[8:])
	in := body[jksHeader:]
	cut := func(n int) []byte {
		if n < 0 || n > len(in) {
			return nil
		}
		part := in[:n]
		in = in[n:]
		return part
	}
	text := func() (string, bool) {
		l := cut(2)
		if l == nil {
			return "", false
		}
		s := cut(int(binary.BigEndian.Uint16(l)))
		return string(s), s != nil
	}
	var all []jksEntry
	for range count {
		start := in
		tag := cut(4)
		if tag == nil || binary.BigEndian.Uint32(tag) != 2 {
			return nil, bad
		}
		alias, ok1 := text()
		date := cut(8)
		_, ok2 := text()
		l := cut(4)
		if !ok1 || !ok2 || date == nil || l == nil {
			return nil, bad
		}
		cert := cut(int(binary.BigEndian.Uint32(l)))
		if cert == nil {
			return nil, bad
		}
		all = append(all, jksEntry{raw: start[:len(start)-len(in)], alias: alias, cert: cert})
	}
	if len(in) > 0 {
		return nil, bad
	}
	return all, nil
}

func writeJKS(all []jksEntry) []byte {
	b := []byte{0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2}
	b = binary.BigEndian.AppendUint32(b, uint32(len(all)))
	for _, e := range all {
		b = append(b, e.raw...)
	}
	return append(b, jksSum(b, storePassword)...)
}

func newJKSEntry(alias string, at time.Time, cert []byte) jksEntry {
	e := jksEntry{alias: alias, cert: cert}
	e.raw = binary.BigEndian.AppendUint32(e.raw, 2)
	for _, s := range []string{alias, "X.509"} {
		e.raw = binary.BigEndian.AppendUint16(e.raw, uint16(len(s)))
		e.raw = append(e.raw, s...)
		if s == alias {
			e.raw = binary.BigEndian.AppendUint64(e.raw, uint64(at.UnixMilli()))
		}
	}
	e.raw = binary.BigEndian.AppendUint32(e.raw, uint32(len(cert)))
	e.raw = append(e.raw, cert...)
	return e
}

func jksHas(b []byte, ca *x509.Certificate) (bool, error) {
	all, err := parseJKS(b)
	for _, e := range all {
		if bytes.Equal(e.cert, ca.Raw) {
			return true, nil
		}
	}
	return false, err
}

// parseP12 reads a store of trusted certificates, with the usual password or none.
func parseP12(b []byte) ([]*x509.Certificate, error) {
	if err := checkP12Cost(b); err != nil {
		return nil, err
	}
	all, err := pkcs12.DecodeTrustStore(b, storePassword)
	if err != nil {
		var plain error
		if all, plain = pkcs12.DecodeTrustStore(b, ""); plain != nil {
			return nil, fmt.Errorf("%w: not a PKCS #12 store of certificates with the password %s or none: %w", ErrInvalid, storePassword, err)
		}
	}
	return all, nil
}

func p12Has(b []byte, ca *x509.Certificate) (bool, error) {
	all, err := parseP12(b)
	for _, c := range all {
		if c.Equal(ca) {
			return true, nil
		}
	}
	return false, err
}

func writeP12(all []*x509.Certificate) ([]byte, error) {
	return pkcs12.Modern2023.EncodeTrustStore(all, storePassword)
}
