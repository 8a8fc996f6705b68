package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/blackstart-project/blackstart/recovery/kit"
	"github.com/blackstart-project/blackstart/runbooks"
)

// ProofNamespace is what the signature of a proof is made for: ssh-keygen -Y verify
// -n blackstart-proof accepts it.
const ProofNamespace = "blackstart-proof"

// maxProof bounds a proof and its signature, in bytes.
const maxProof = 1 << 20

// SignProof signs a proof's exact bytes with an SSH key.
func SignProof(ctx context.Context, proof []byte, key kit.KeyFile) ([]byte, error) {
	key.Namespace = ProofNamespace
	return kit.Sign(ctx, proof, key)
}

// ProofOptions say when a proof holds.
type ProofOptions struct {
	Runbook string        // digest of the runbook as it is now
	MaxAge  time.Duration // 0: it does not age
	Now     time.Time
	// Signers is a file of ssh-keygen's allowed_signers; "": nobody asks who signed.
	Signers string
}

// ReadProof reads a proof that rehearse wrote, and its signature, beside it in
// PATH.sig. What is said of its signer and its age is found out here, whatever the
// file says.
func ReadProof(path string, o ProofOptions) (runbooks.Proof, error) {
	var p runbooks.Proof
	b, err := readAtMost(path, maxProof)
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		return p, fmt.Errorf("%w: reading proof %s: %w", ErrUsage, path, err)
	}
	p.Signer, p.Unsigned, p.Stale = "", "", ""
	switch age := o.Now.Sub(p.At); {
	case p.Runbook != o.Runbook:
		p.Stale = "the runbook has changed"
	case o.MaxAge > 0 && age > o.MaxAge:
		p.Stale = fmt.Sprintf("%d days have passed", int(age.Hours()/24))
	case age < -24*time.Hour:
		p.Stale = "nothing can be told, for its date is to come"
	}
	if o.Signers == "" {
		return p, nil
	}
	trust, err := kit.ReadTrustFor(o.Signers, ProofNamespace)
	if err != nil {
		return p, err
	}
	sig, err := readAtMost(path+".sig", maxProof)
	if errors.Is(err, fs.ErrNotExist) {
		p.Unsigned = "there is no signature"
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("reading the signature of proof %s: %w", path, err)
	}
	signers, err := kit.Verify(b, [][]byte{sig}, trust, 1, nil)
	if err != nil {
		p.Unsigned = "its signature does not count: " + strings.TrimPrefix(err.Error(), kit.ErrVerification.Error()+": ")
		return p, nil
	}
	p.Signer = signers[0].Name + " (" + signers[0].ID + ")"
	return p, nil
}

func readAtMost(path string, limit int64) (_ []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("it is larger than %d bytes", limit)
	}
	return b, err
}

// KitDigest is that of the kit which this host uses; "" where it has none.
func (s Site) KitDigest() (string, error) {
	k, err := s.OpenKit(s.From.Kit)
	if s.From.Kit.Dir == "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return k.Digest.String(), k.Layout.Close()
}
