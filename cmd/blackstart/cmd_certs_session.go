package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/blackstart-project/blackstart/certs"
	"github.com/blackstart-project/blackstart/recovery"
)

func sessionFlag() cli.Flag {
	return &cli.StringFlag{Name: "session", Usage: "`SOCKET` of the session", DefaultText: "STATE/certs/session"}
}

// session is the session that a command asks.
func session(c *cli.Context) (recovery.Site, certs.Session, error) {
	s, err := bareSite(c)
	return s, certs.Session{Path: cmp.Or(c.String("session"), s.SessionPath())}, err
}

func certsOpen() *cli.Command {
	return &cli.Command{
		Name: "open", Usage: "open the emergency authority for some time", ArgsUsage: "CEREMONY",
		Description: `Stays in the foreground with the keys in locked memory, and answers certs issue, ssh and serve of this
user and root on a socket, until --for is over or certs close. Shares lie with the ceremony, sealed;
each --identity opens its person's. Where there are too few and standard input is a terminal, more
are asked for, in any order. An SSH session that drops takes the keys with it. Every certificate is in the journal before it is given out: where the
journal cannot be written, none is.

   blackstart certs open ceremony --identity anna.key --identity /mnt/usb/bo.key --policy issuing --for 2h

A policy says which service may have which names, and narrows what the authority may certify:

   max 72h
   service etcd
       dns  etcd.example.org *.etcd.example.org
       ip   10.0.0.0/24
       uri  spiffe://example.org/etcd
       use  server client
       for  24h
       user etcd-admin         principals of SSH user certificates: without a policy there are none`,
		Flags: append([]cli.Flag{
			&cli.DurationFlag{Name: "for", Value: 2 * time.Hour, Usage: "`TIME` that the session lasts, at most 12h"},
			&cli.StringFlag{Name: "policy", Usage: "`FILE` that says which service may have which names"},
			sessionFlag(), unguardedFlag(),
		}, keyFlags()...),
		Action: func(c *cli.Context) error {
			dir, err := one(c, "ceremony")
			if err != nil {
				return err
			}
			s, at, err := session(c)
			if err != nil {
				return err
			}
			if d := c.Duration("for"); d <= 0 || d > certs.MaxSession {
				return usage("--for %s: want more than 0 and at most %s", d, certs.MaxSession)
			}
			o := recovery.SessionOptions{
				Keys: keys(c), Dir: dir, Socket: at.Path, Lasts: c.Duration("for"), Policy: c.String("policy"), Unguarded: c.Bool("unguarded"),
				Ready: func(st certs.SessionStatus) error {
					_, err := fmt.Fprintf(c.App.Writer, "%s is open for %s\n", printable(st.Name), st.Left.Round(time.Second))
					s.Log.Info("to close it: blackstart certs close")
					return err
				},
			}
			return s.OpenSession(c.Context, o)
		},
	}
}

// keyFlags say what opens a ceremony.
func keyFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "identity", Usage: "`FILE` of an age identity or an SSH private key"},
		&cli.StringSliceFlag{Name: "share", Usage: "`FILE` of a sealed share that does not lie with the ceremony"},
	}
}

func keys(c *cli.Context) recovery.Keys {
	k := recovery.Keys{Shares: c.StringSlice("share"), Identities: c.StringSlice("identity"), Passphrase: password, Password: password}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		k.Next = nextIdentity()
	}
	return k
}

// nextIdentity asks on the terminal for a file, until there are enough.
func nextIdentity() func(certs.Progress) (string, error) {
	in := bufio.NewReader(os.Stdin)
	return func(p certs.Progress) (string, error) {
		fmt.Fprintf(os.Stderr, "shares of: %s; missing: %d. File of another identity: ", printable(strings.Join(p.Have, ", ")), p.Need)
		line, err := in.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("asking for another share: %w: %w", certs.ErrShares, err)
		}
		return strings.TrimSpace(line), nil
	}
}

// requestFlags are the names of a certificate.
func requestFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "service", Required: true, Usage: "`NAME` of the service"},
		&cli.StringSliceFlag{Name: "dns", Usage: "DNS `NAME`"},
		&cli.StringSliceFlag{Name: "ip", Usage: "`IP` address"},
		&cli.StringSliceFlag{Name: "uri", Usage: "`URI`, such as spiffe://example.org/etcd"},
		&cli.DurationFlag{Name: "for", Usage: "`TIME` that it lives", DefaultText: "24h, or what the policy allows"},
		&cli.StringSliceFlag{Name: "use", Usage: "`USE`: server or client", DefaultText: "both"},
	}
}

func request(c *cli.Context) (certs.Request, error) {
	r := certs.Request{Service: c.String("service"), DNS: c.StringSlice("dns"), URI: c.StringSlice("uri"), For: c.Duration("for")}
	for _, v := range c.StringSlice("ip") {
		ip, err := netip.ParseAddr(v)
		if err != nil {
			return r, usage("--ip %s: no address", v)
		}
		r.IP = append(r.IP, ip)
	}
	for _, v := range c.StringSlice("use") {
		if v != string(certs.Server) && v != string(certs.Client) {
			return r, usage("--use %s: want server or client", v)
		}
		r.Use = append(r.Use, certs.Use(v))
	}
	return r, nil
}

// issuedView is what is said of a certificate: never its key.
type issuedView struct {
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Shortened bool      `json:"shortened,omitempty"`
	Path      string    `json:"path"`
}

func writeIssued(c *cli.Context, out certs.Issued, path string) error {
	v := issuedView{out.Serial, out.NotBefore, out.NotAfter, out.Shortened, path}
	return result(c, v, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s: serial %s, until %s\n", path, v.Serial, v.NotAfter.Format(time.RFC3339))
		if v.Shortened {
			logger(c).Warn("it ends with the authority, sooner than was asked for")
		}
		return err
	})
}

func certsIssue() *cli.Command {
	return &cli.Command{
		Name: "issue", Usage: "give a service a certificate",
		Description: `Into a directory that is to be mounted whole: cert.pem (with the intermediate), key.pem (0600) and
ca.pem, which are replaced together. Issuing again into it renews it. For a --csr, whose key stays
where it is, -o is a file for the certificate and the intermediate.

   blackstart certs issue --service etcd --dns etcd.example.org --ip 10.0.0.7 --for 12h -o /run/etcd/identity
   blackstart certs issue --service web --csr web.csr -o web.pem`,
		Flags: append(requestFlags(),
			keyFlag("the key to make"),
			&cli.StringFlag{Name: "csr", Usage: "`FILE` of a certificate request, in PEM or DER"},
			&cli.StringFlag{Name: "o", Required: true, Usage: "`DIR` of the identity; FILE for a CSR"},
			&cli.IntFlag{Name: "uid", Usage: "`N` of the user that reads the key", Value: os.Getuid()},
			&cli.IntFlag{Name: "gid", Usage: "`N` of its group", Value: os.Getgid()},
			sessionFlag(), outputFlag()),
		Action: func(c *cli.Context) error {
			_, at, err := session(c)
			if err != nil {
				return err
			}
			r, err := request(c)
			if err != nil {
				return err
			}
			r.Key = certs.KeyType(c.String("key"))
			if file := c.String("csr"); file != "" {
				if r.CSR, err = os.ReadFile(file); err != nil {
					return usage("reading --csr: %w", err)
				}
			}
			out, err := at.Issue(c.Context, r)
			if err != nil {
				return err
			}
			if len(r.CSR) > 0 {
				err = os.WriteFile(c.String("o"), out.Cert, 0o644)
			} else {
				err = certs.Identity{Dir: c.String("o"), UID: c.Int("uid"), GID: c.Int("gid")}.Write(out)
			}
			if err != nil {
				return err
			}
			return writeIssued(c, out, c.String("o"))
		},
	}
}

func certsSSH() *cli.Command {
	return &cli.Command{
		Name: "ssh", Usage: "give an SSH host or user a certificate",
		Description: `FILE-cert.pub is written beside the public key FILE.pub, as ssh-keygen -s does. A host needs the
ceremony's ssh_user_ca.pub as TrustedUserCAKeys, a user ssh_host_ca.pub as @cert-authority in
known_hosts. User certificates are given where the session's policy lists the principals.

   blackstart certs ssh --service etcd --kind host --principal etcd.example.org --key /etc/ssh/ssh_host_ed25519_key.pub
   blackstart certs ssh --service etcd --kind user --principal etcd-admin --id anna --key id_ed25519.pub`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "service", Required: true, Usage: "`NAME` of the service"},
			&cli.StringFlag{Name: "kind", Required: true, Usage: "`KIND`: host or user"},
			&cli.StringSliceFlag{Name: "principal", Required: true, Usage: "host `NAME` or address, or user name"},
			&cli.StringFlag{Name: "key", Required: true, Usage: "`FILE` of the public key"},
			&cli.StringFlag{Name: "id", Usage: "`WHO` it is for, for sshd's log", DefaultText: "the service and the first principal"},
			&cli.DurationFlag{Name: "for", Usage: "`TIME` that it lives", DefaultText: "24h, or what the policy allows"},
			sessionFlag(), outputFlag(),
		},
		Action: func(c *cli.Context) error {
			_, at, err := session(c)
			if err != nil {
				return err
			}
			kind := certs.SSHKind(c.String("kind"))
			if kind != certs.SSHHost && kind != certs.SSHUser {
				return usage("--kind %s: want host or user", kind)
			}
			key := c.String("key")
			pub, err := os.ReadFile(key)
			if err != nil {
				return usage("reading --key: %w", err)
			}
			principals := c.StringSlice("principal")
			out, err := at.IssueSSH(c.Context, certs.SSHRequest{
				Service: c.String("service"), Kind: kind, Principals: principals, PublicKey: pub, For: c.Duration("for"),
				ID: cmp.Or(c.String("id"), c.String("service")+"/"+principals[0]),
			})
			if err != nil {
				return err
			}
			file := strings.TrimSuffix(key, ".pub") + "-cert.pub"
			if err := os.WriteFile(file, out.Cert, 0o644); err != nil {
				return err
			}
			return writeIssued(c, certs.Issued{Serial: out.Serial, NotBefore: out.NotBefore, NotAfter: out.NotAfter}, file)
		},
	}
}

func certsStatus() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "say whether a session is open, and for how long",
		Flags: []cli.Flag{sessionFlag(), outputFlag()},
		Action: func(c *cli.Context) error {
			_, at, err := session(c)
			if err != nil {
				return err
			}
			st, err := at.Status(c.Context)
			if err != nil {
				return err
			}
			return result(c, st, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is open for %s, process %d; %d certificates were given out\n", printable(st.Name), st.Left.Round(time.Second), st.PID, st.Issued)
				return err
			})
		},
	}
}

func certsClose() *cli.Command {
	return &cli.Command{
		Name: "close", Usage: "end the session, and forget the keys",
		Flags: []cli.Flag{sessionFlag(), outputFlag()},
		Action: func(c *cli.Context) error {
			_, at, err := session(c)
			if err != nil {
				return err
			}
			st, err := at.Close(c.Context)
			if err != nil {
				return err
			}
			return result(c, st, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is closed; %d certificates were given out\n", printable(st.Name), st.Issued)
				return err
			})
		},
	}
}
