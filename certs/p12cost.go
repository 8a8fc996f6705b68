package certs

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
)

// maxIterations bounds the rounds of key derivation that a PKCS #12 file may ask for; Java asks for 10,000. A file
// from a root that is not trusted could otherwise keep a reader busy for days.
const maxIterations = 1_000_000

type p12Content struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"tag:0,explicit,optional"`
}

// checkP12Cost refuses a file that asks for too many rounds (RFC 7292, section 4; RFC 8018, appendix A). What it cannot
// read it leaves to the reader to refuse.
func checkP12Cost(b []byte) error {
	var pfx struct {
		Version  int
		AuthSafe p12Content
		MAC      asn1.RawValue `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(b, &pfx); err != nil {
		return fmt.Errorf("%w: no PKCS #12: %w", ErrInvalid, err)
	}
	if pfx.MAC.FullBytes != nil {
		var mac struct {
			Digest     asn1.RawValue
			Salt       []byte
			Iterations int `asn1:"optional,default:1"`
		}
		if _, err := asn1.Unmarshal(pfx.MAC.FullBytes, &mac); err != nil || mac.Iterations > maxIterations {
			return fmt.Errorf("%w: PKCS #12 with more than %d rounds", ErrInvalid, maxIterations)
		}
		if err := smallIntegers(mac.Digest.Bytes, 0); err != nil {
			return err
		}
	}
	var inner []byte
	if _, err := asn1.Unmarshal(pfx.AuthSafe.Content.Bytes, &inner); err != nil {
		return fmt.Errorf("%w: no PKCS #12 that a password locks", ErrInvalid)
	}
	var parts []p12Content
	if _, err := asn1.Unmarshal(inner, &parts); err != nil {
		return fmt.Errorf("%w: no PKCS #12: %w", ErrInvalid, err)
	}
	for _, p := range parts {
		var enc struct {
			Version int
			Info    struct {
				Type      asn1.ObjectIdentifier
				Algorithm pkix.AlgorithmIdentifier
				Content   asn1.RawValue `asn1:"optional"`
			}
		}
		if _, err := asn1.Unmarshal(p.Content.Bytes, &enc); err != nil {
			continue // not encrypted
		}
		if err := smallIntegers(enc.Info.Algorithm.Parameters.FullBytes, 0); err != nil {
			return err
		}
	}
	return nil
}

// smallIntegers refuses parameters with a number above maxIterations anywhere in them.
func smallIntegers(b []byte, depth int) error {
	for len(b) > 0 && depth < 16 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(b, &v)
		if err != nil {
			return nil
		}
		if v.Tag == asn1.TagInteger && v.Class == asn1.ClassUniversal {
			n := 0
			for _, c := range v.Bytes[:min(len(v.Bytes), 5)] {
				n = n<<8 | int(c)
			}
			if n > maxIterations {
				return fmt.Errorf("%w: PKCS #12 with more than %d rounds", ErrInvalid, maxIterations)
			}
		}
		if v.IsCompound {
			if err := smallIntegers(v.Bytes, depth+1); err != nil {
				return err
			}
		}
		b = rest
	}
	return nil
}
