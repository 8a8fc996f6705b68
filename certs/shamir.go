package certs

import (
	"crypto/rand"
	"errors"
)

// Shamir's secret sharing ("How to share a secret", 1979) over GF(2^8) with the polynomial of AES, byte by byte: a
// share is the value, at its x, of polynomials of degree k-1 whose values at 0 are the secret's bytes. No
// multiplication depends on a table or branch that a secret chooses.

// point is a share: the values of all polynomials at x.
type point struct {
	x byte
	y []byte
}

// mul multiplies in GF(2^8) modulo x^8+x^4+x^3+x+1 (FIPS 197, section 4.2).
func mul(a, b byte) byte {
	var p byte
	for range 8 {
		p ^= a & -(b & 1)
		a = a<<1 ^ 0x1b&-(a>>7)
		b >>= 1
	}
	return p
}

// inv is the inverse a^254; that of 0 is 0.
func inv(a byte) byte {
	r := byte(1)
	for range 7 {
		a = mul(a, a)
		r = mul(r, a)
	}
	return r
}

// split makes n shares, at x from 1 to n, of which any k give the secret back.
func split(secret []byte, k, n int) ([]point, error) {
	if k < 1 || n < k || n > 255 || len(secret) == 0 {
		return nil, errors.New("splitting a secret: want 1 <= threshold <= shares <= 255, and something to split")
	}
	shares := make([]point, n)
	for i := range shares {
		shares[i] = point{x: byte(i + 1), y: make([]byte, len(secret))}
	}
	poly := make([]byte, k)
	defer clear(poly)
	for at, b := range secret {
		if _, err := rand.Read(poly[1:]); err != nil {
			return nil, err
		}
		poly[0] = b
		for _, s := range shares {
			var v byte
			for i := k - 1; i >= 0; i-- {
				v = mul(v, s.x) ^ poly[i]
			}
			s.y[at] = v
		}
	}
	return shares, nil
}

// interpolate gives the polynomials' values at x from shares of different x and the same length (Lagrange).
func interpolate(shares []point, x byte) ([]byte, error) {
	if len(shares) == 0 {
		return nil, errors.New("combining shares: there are none")
	}
	out := make([]byte, len(shares[0].y))
	for i, s := range shares {
		if len(s.y) != len(out) {
			return nil, errors.New("combining shares: they differ in length")
		}
		weight := byte(1)
		for j, t := range shares {
			if i == j {
				continue
			}
			if s.x == t.x {
				return nil, errors.New("combining shares: two are the same")
			}
			weight = mul(weight, mul(x^t.x, inv(s.x^t.x)))
		}
		for at := range out {
			out[at] ^= mul(weight, s.y[at])
		}
	}
	return out, nil
}
