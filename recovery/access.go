package recovery

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/blackstart-project/blackstart/recovery/access"
)

var (
	// ErrDenied is returned where the policy does not allow something.
	ErrDenied = errors.New("not allowed")
	// ErrNoPolicy is returned where a kit says nothing of who may do what.
	ErrNoPolicy = errors.New("no policy")
)

// AccessOptions say where the policy comes from.
type AccessOptions struct {
	Kit KitOptions
	// Files are read instead of the kit's policy, whoever signed them: for writing a policy and testing it.
	Files   []string
	Signers string // file of allowed signers; "" stands for DATA/signers, or else the kit's
	SSHCA   string // file of authorities for SSH users; "" stands for DATA/ssh_user_ca.pub
}

// Access is a policy, and what has been asked for and approved on this host.
type Access struct {
	Policy  *access.Policy
	Signers access.Signers
	Grants  []access.Grant
	// Unreadable says which requests could not be read; they count for nothing.
	Unreadable []string
	Source     string // the kit's name and epoch; "" for files
	site       Site
	ssh        string
}

// The kit's policy texts: access* are the policy, with a signature of each owner as NAME.sig or NAME.OWNER.sig; signers is
// in the form of ssh-keygen's allowed_signers.
const (
	policyPrefix  = "access"
	signersName   = "signers"
	signatureTail = ".sig"
)

func (s Site) sshCA() string { return filepath.Join(s.Host.Data, "ssh_user_ca.pub") }

func (s Site) grantsDir() string { return filepath.Join(s.Host.Data, "access") }

// OpenAccess reads the policy and the requests of this host.
func (s Site) OpenAccess(o AccessOptions) (*Access, error) {
	a := &Access{site: s, ssh: cmp.Or(o.SSHCA, s.sshCA())}
	var opt access.Options
	var sources []access.Source
	signers := ""
	if len(o.Files) > 0 {
		for _, f := range o.Files {
			text, err := readBounded(f)
			if err != nil {
				return nil, err
			}
			sources = append(sources, access.Source{Name: f, Text: text})
		}
	} else {
		k, err := s.OpenKit(o.Kit)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: without a kit there is no policy; name one with --policy: %w", ErrUsage, err)
		}
		if err != nil {
			return nil, err
		}
		a.Source = fmt.Sprintf("%s epoch %d", k.Document.Name, k.Document.Epoch)
		opt.Owners = map[string]string{}
		for _, v := range k.Document.Services {
			opt.Owners[v.Name] = v.Owner
		}
		signatures := map[string]string{}
		for _, t := range k.Document.Policy {
			switch {
			case t.Name == signersName:
				signers = t.Text
			case strings.HasSuffix(t.Name, signatureTail):
				signatures[t.Name] = t.Text
			case strings.HasPrefix(t.Name, policyPrefix):
				sources = append(sources, access.Source{Name: t.Name, Text: []byte(t.Text)})
			}
		}
		for i := range sources {
			for name, sig := range signatures {
				if strings.HasPrefix(name, sources[i].Name+".") {
					sources[i].Signatures = append(sources[i].Signatures, []byte(sig))
				}
			}
		}
		if err := k.Close(); err != nil {
			return nil, err
		}
		if len(sources) == 0 {
			return nil, fmt.Errorf("%w: the kit has none whose name begins with %s", ErrNoPolicy, policyPrefix)
		}
	}
	text, err := s.signersText(o.Signers, signers)
	if err != nil {
		return nil, err
	}
	if opt.Signers, err = access.ParseSigners(text, access.Namespace); err != nil {
		return nil, err
	}
	a.Signers = opt.Signers
	if a.Policy, err = access.Compile(sources, opt); err != nil {
		return nil, err
	}
	return a, a.readGrants()
}

// signersText is the file named, or that of the host, or the kit's.
func (s Site) signersText(file, kits string) ([]byte, error) {
	if file == "" {
		if file = filepath.Join(s.Host.Data, signersName); !exists(file) {
			return []byte(kits), nil
		}
	}
	return readBounded(file)
}

// Subject is whoever runs this program: behind sudo, the one who called it. The groups are the kernel's, or those of
// /etc/group for somebody behind sudo.
func (a *Access) Subject() (access.Subject, error) {
	s := access.Subject{UID: os.Getuid()}
	groups, err := unixGroups()
	if err != nil {
		return s, err
	}
	behind, err := strconv.Atoi(os.Getenv("SUDO_UID"))
	sudo := err == nil && s.UID == 0
	if sudo {
		s.UID = behind
	}
	if u, err := user.LookupId(strconv.Itoa(s.UID)); err == nil {
		s.User = u.Username
	} else if sudo {
		s.User = os.Getenv("SUDO_USER")
	}
	if sudo {
		if gid, err := strconv.Atoi(os.Getenv("SUDO_GID")); err == nil {
			s.GIDs = append(s.GIDs, gid)
		}
		for _, g := range groups {
			if slices.Contains(g.Members, s.User) {
				s.GIDs = append(s.GIDs, g.GID)
			}
		}
	} else {
		if s.GIDs, err = os.Getgroups(); err != nil {
			return s, fmt.Errorf("reading the groups of this process: %w", err)
		}
		if gid := os.Getgid(); !slices.Contains(s.GIDs, gid) {
			s.GIDs = append(s.GIDs, gid)
		}
	}
	s.NameGroups(groups)
	return s, a.login(&s)
}

// unixGroups are those of /etc/group; a rescue system may have none.
func unixGroups() ([]access.UnixGroup, error) {
	text, err := readBounded("/etc/group")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return access.ParseGroups(text)
}

// login adds what sshd says of the login, where ExposeAuthInfo is on.
func (a *Access) login(s *access.Subject) error {
	path := session("SSH_USER_AUTH")
	if path == "" {
		return nil
	}
	info, err := readBounded(path)
	if err != nil {
		a.site.Log.Warn("what sshd says of the login is not there", "error", err)
		return nil
	}
	if keys := a.Signers.SSHKeys(info); len(keys) > 0 {
		s.Key = keys[0]
	}
	authorities, err := os.ReadFile(a.ssh)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading authorities for SSH users: %w", err)
	}
	s.Principals, err = access.Principals(a.site.now(), info, authorities, s.User)
	return err
}

// Missing lists users and groups of the policy that this host does not know.
func (a *Access) Missing() ([]string, error) {
	groups, err := unixGroups()
	if err != nil {
		return nil, err
	}
	text, err := readBounded("/etc/passwd")
	if err != nil {
		return nil, err
	}
	var users []string
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(line, ":")
		users = append(users, name)
	}
	return a.Policy.Missing(users, groups), nil
}

// Decide says whether somebody may do something, and which lines had a say.
func (a *Access) Decide(who access.Subject, verb, service string) access.Explanation {
	return a.Policy.Explain(a.site.now(), who, verb, service, a.Grants)
}

// Request writes down what needs approval, for others to sign, and says where.
func (a *Access) Request(who access.Subject, verbs, services []string, reason string, lasts time.Duration) (_ access.Request, path string, err error) {
	host, err := hostname()
	if err != nil {
		return access.Request{}, "", err
	}
	req, err := access.NewRequest(a.site.now(), who, host, verbs, services, reason, lasts)
	if err != nil {
		return req, "", err
	}
	text, err := req.Text()
	if err != nil {
		return req, "", err
	}
	dir := filepath.Join(a.site.grantsDir(), req.ID)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return req, "", fmt.Errorf("writing a request: %w", err)
	}
	if err := a.site.record("access-request", req); err != nil {
		return req, "", err
	}
	path = filepath.Join(dir, requestFile)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return req, "", fmt.Errorf("writing a request: %w", err)
	}
	return req, path, nil
}
