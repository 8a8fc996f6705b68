package drill

import (
	"crypto/sha256"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/blackstart-project/blackstart/sandbox"
)

// ErrFailed is returned where a rehearsal did not pass: the service is not
// recoverable like this.
var ErrFailed = errors.New("not recoverable")

// Judgement is the error of some rehearsals: nil where all passed, ErrFailed where
// one failed, sandbox.ErrUnresolved where it could not be told of one.
func Judgement(results []Result) error {
	failed, open := 0, 0
	for _, r := range results {
		switch r.Verdict {
		case Fail:
			failed++
		case Unresolved:
			open++
		case Pass:
		}
	}
	switch {
	case failed > 0:
		return fmt.Errorf("%w: %d of %d rehearsals failed", ErrFailed, failed, len(results))
	case open > 0:
		return fmt.Errorf("%w: %d of %d rehearsals prove nothing", sandbox.ErrUnresolved, open, len(results))
	}
	return nil
}

// FileDigest is "sha256:" and the digest of a file.
func FileDigest(path string) (_ string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("sha256:%x", h.Sum(nil)), nil
}

// junit is JUnit's XML, as CI engines read it.
type junit struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Time     string      `xml:"time,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string       `xml:"classname,attr"`
	Name    string       `xml:"name,attr"`
	Time    string       `xml:"time,attr"`
	Failure *junitDetail `xml:"failure"`
	Error   *junitDetail `xml:"error"`
	Output  string       `xml:"system-out,omitempty"`
}

type junitDetail struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// WriteJUnit writes results for a CI engine: what could not be told is an error
// there, not a failure.
func WriteJUnit(w io.Writer, results []Result) error {
	suite := junit{Name: "blackstart rehearse", Tests: len(results)}
	var total time.Duration
	for _, r := range results {
		total += r.Took
		c := junitCase{Class: r.Service, Name: r.Rehearsal, Time: seconds(r.Took), Output: r.Output}
		detail := &junitDetail{Message: firstLine(r.Reason), Text: r.Reason}
		switch r.Verdict {
		case Fail:
			suite.Failures++
			c.Failure = detail
		case Unresolved:
			suite.Errors++
			c.Error = detail
		case Pass:
		}
		suite.Cases = append(suite.Cases, c)
	}
	suite.Time = seconds(total)
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(suite); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }
