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

const shopRunbook = `
runbook: the shop, from its goods
service: shop
steps:
  - {name: get the goods, run: echo hello >/etc/goods}
---
rehearsal: the shop recovers
service: shop
healthy: [{file: /etc/goods, contains: hello}]
within: 20s
`

// In a package's tests, TestMain calls drill.Init first, and a rehearsal is one line:
//
//	func TestMain(m *testing.M) {
//		drill.Init()
//		os.Exit(m.Run())
//	}
func ExampleTest() {
	_ = func(t *testing.T) {
		drill.Test(t, drill.Options{}, "etcd.yaml")
	}
}

// What a rehearsal says of a service.
func ExampleRehearse() {
	file, err := runbooks.Parse("shop.yaml", []byte(shopRunbook))
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
