package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
)

// jws is a request of an ACME client: a flattened JSON Web Signature (RFC 7515; RFC 8555, section 6.2).
type jws struct {
	Protected string `json:"protected"`
	Payload   string `json:"payload"`
	Signature string `json:"signature"`
}

type jwsHeader struct {
	Alg   string `json:"alg"`
	Nonce string `json:"nonce"`
	URL   string `json:"url"`
	KID   string `json:"kid"`
	JWK   *jwk   `json:"jwk"`
}

// jwk is a public key (RFC 7517, RFC 8037).
type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
}

func b64(s string) ([]byte, error) { return base64.RawURLEncoding.Strict().DecodeString(s) }

func (k jwk) public() (crypto.PublicKey, error) {
	var parts [4][]byte
	for i, s := range []string{k.X, k.Y, k.N, k.E} {
		var err error
		if parts[i], err = b64(s); err != nil {
			return nil, errJWK()
		}
	}
	x, y, n, e := parts[0], parts[1], parts[2], parts[3]
	switch {
	case k.Kty == "EC" && k.Crv == "P-256" && len(x) == 32 && len(y) == 32:
		pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
		if err != nil {
			return nil, errJWK()
		}
		return pub, nil
	case k.Kty == "OKP" && k.Crv == "Ed25519" && len(x) == ed25519.PublicKeySize:
		return ed25519.PublicKey(x), nil
	case k.Kty == "RSA" && len(e) <= 4 && len(n) <= 1024:
		pub := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
		return pub, checkKey(pub)
	}
	return nil, errJWK()
}

// thumbprint names a key (RFC 7638): the SHA-256 of its required members in order.
func (k jwk) thumbprint() string {
	var text string
	switch k.Kty {
	case "EC":
		text = fmt.Sprintf(`{"crv":%q,"kty":"EC","x":%q,"y":%q}`, k.Crv, k.X, k.Y)
	case "OKP":
		text = fmt.Sprintf(`{"crv":%q,"kty":"OKP","x":%q}`, k.Crv, k.X)
	default:
		text = fmt.Sprintf(`{"e":%q,"kty":"RSA","n":%q}`, k.E, k.N)
	}
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// parseJWS reads the outside of a request; nothing in it is to be believed yet.
func parseJWS(body []byte) (jws, jwsHeader, error) {
	var m jws
	var h jwsHeader
	if err := json.Unmarshal(body, &m); err != nil {
		return m, h, fmt.Errorf("%w: not a JSON Web Signature", ErrInvalid)
	}
	protected, err := b64(m.Protected)
	if err != nil || json.Unmarshal(protected, &h) != nil {
		return m, h, fmt.Errorf("%w: not a JSON Web Signature", ErrInvalid)
	}
	if (h.JWK == nil) == (h.KID == "") {
		return m, h, fmt.Errorf("%w: want either a jwk or a kid", ErrInvalid)
	}
	return m, h, nil
}

// verify checks a signature, and gives the payload.
func (m jws) verify(alg string, key crypto.PublicKey) ([]byte, error) {
	bad := fmt.Errorf("%w: the signature is not right", ErrRefused)
	sig, err := b64(m.Signature)
	if err != nil {
		return nil, bad
	}
	text := []byte(m.Protected + "." + m.Payload)
	sum := sha256.Sum256(text)
	ok := false
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		ok = alg == "ES256" && len(sig) == 64 && ecdsa.Verify(k, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
	case ed25519.PublicKey:
		ok = alg == "EdDSA" && ed25519.Verify(k, text, sig)
	case *rsa.PublicKey:
		ok = alg == "RS256" && rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig) == nil
	}
	if !ok {
		return nil, bad
	}
	payload, err := b64(m.Payload)
	if err != nil {
		return nil, bad
	}
	return payload, nil
}

func errJWK() error {
	return fmt.Errorf("%w: no key of the types P-256, Ed25519 or RSA", ErrInvalid)
}
