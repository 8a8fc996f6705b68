package drill_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/recovery/drill"
	"github.com/blackstart-project/blackstart/runbooks"
)

// A rehearsal in a Go test is one line, where the package's TestMain calls
// drill.Init first.
func TestShopRecovers(t *testing.T) {
	drill.Test(t, drill.Options{}, "testdata/shop.yaml")
}

// What a rehearsal says of a service, for a program of one's own, whose main calls
// Init first.
func ExampleRehearse() {
	file, err := runbooks.Read("testdata/shop.yaml")
	if err != nil {
		fmt.Println(err)
		return
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Println(err)
		return
	}
	o := drill.Options{Site: recovery.Site{Log: slog.Default(), Root: "/"}, Self: self}
	r, err := drill.Rehearse(context.Background(), o, file, file.Rehearsals[0])
	fmt.Println(r.Rehearsal, r.Verdict, err)
	// Output: the shop recovers PASS <nil>
}
