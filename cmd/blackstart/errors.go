package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/certs"
	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/container/image"
	"github.com/blackstart-project/blackstart/container/salvage"
	"github.com/blackstart-project/blackstart/fetch"
	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/recovery/access"
	"github.com/blackstart-project/blackstart/recovery/drill"
	"github.com/blackstart-project/blackstart/recovery/graph"
	"github.com/blackstart-project/blackstart/recovery/journal"
	"github.com/blackstart-project/blackstart/recovery/kit"
	"github.com/blackstart-project/blackstart/recovery/names"
	"github.com/blackstart-project/blackstart/runbooks"
	"github.com/blackstart-project/blackstart/sandbox"
)

// Exit codes, the same for every command.
const (
	exitDone           = 0
	exitFailed         = 1
	exitUsage          = 2
	exitNotRecoverable = 3
	exitDenied         = 4
	exitVerification   = 5
	exitStale          = 6
	exitUnresolved     = 7
	exitInterrupted    = 130
)

// outcomes is the one table from an error to an exit code and to what the
// operator can do next. The first match counts.
func outcomes() []outcome {
	return []outcome{
		{recovery.ErrDenied, exitDenied, "blackstart access explain VERB SERVICE says which line decides; access request asks for approval where the policy has it"},
		{recovery.ErrSignature, exitVerification, "have it signed: ssh-keygen -Y sign -n blackstart-audit -f KEY FILE; or take a checkpoint that is"},
		{recovery.ErrNoPolicy, exitUsage, "name a policy with --policy, or put one into the kit"},
		{context.Canceled, exitInterrupted, "nothing half-made stays; run it again to go on"},
		{image.ErrBusy, exitFailed, "another blackstart is unpacking an image: wait for it, then try again"},
		{recovery.ErrTwin, exitFailed, "stop that process first; if you are sure it is harmless, start anyway with --allow-twin"},
		{recovery.ErrSelfAnswered, exitFailed, "give the address of the service's own instance, or use --stop-first where both want the same port or data"},
		{recovery.ErrNotHealthy, exitFailed, "look at the orchestrator's own instance; give it longer with --timeout, or --stop-first if it waits for what the recovery container holds"},
		{recovery.ErrUsage, exitUsage, "see blackstart COMMAND --help"},
		{container.ErrPrivilege, exitFailed, "become root: sudo blackstart ..."},
		{container.ErrReadOnly, exitFailed, "name directories that can be written: blackstart --state DIR --data DIR ..."},
		{container.ErrExists, exitUsage, "choose another --name, or remove it: blackstart rm NAME"},
		{container.ErrNotFound, exitUsage, "blackstart ps lists the containers of this host"},
		{container.ErrRunning, exitFailed, "stop it first: blackstart stop NAME; or remove it anyway with --force"},
		{container.ErrNotRunning, exitFailed, "blackstart ps shows what runs, blackstart logs NAME why it ended"},
		{container.ErrDegraded, exitFailed, "leave --strict out to start without it"},
		{container.ErrBadSpec, exitUsage, "mend the flag or file that the message names; blackstart run --help shows every form"},
		{container.ErrBadProbe, exitUsage, "write http://IP:PORT/PATH, tcp://IP:PORT, unix:///PATH or exec:COMMAND"},
		{salvage.ErrNotFound, exitUsage, "blackstart salvage list shows what is there; --root DIR looks on another disk or in one store"},
		{salvage.ErrAmbiguous, exitUsage, "give the id, or KIND:NAME, or NAMESPACE/NAME"},
		{salvage.ErrIncomplete, exitFailed, "the store no longer has these bytes: try salvage run --no-verify, or an image from elsewhere with run --image"},
		{salvage.ErrVerification, exitVerification, "the store is damaged: salvage run --no-verify takes the dead snapshots as they are; or get the image from elsewhere with run --image"},
		{image.ErrVerification, exitVerification, "the bytes are not what the digest promises: get the image from another place"},
		{image.ErrInvalid, exitUsage, "the image is damaged or of an unknown kind: get it from another place"},
		{image.ErrUnsupported, exitUsage, "convert it where there are tools: skopeo copy ... oci:DIR"},
		{image.ErrNotFound, exitUsage, "name an image that is in there: oci:DIR:TAG"},
		{image.ErrAmbiguous, exitUsage, "name one of them: oci:DIR:TAG"},
		{image.ErrLimit, exitFailed, "free space, or unpack elsewhere with --data DIR"},
		{recovery.ErrNoTrust, exitUsage, "put the public keys of those who sign kits into that file, or name another with --trust FILE"},
		{kit.ErrStale, exitStale, "get a newer kit; if there is none, use this one with --accept-stale"},
		{kit.ErrRollback, exitStale, "somebody may have put an old kit here; if it is meant, use it with --accept-rollback"},
		{kit.ErrVerification, exitVerification, "get the kit from another place, or have it signed: blackstart kit sign; kit repair mends damaged frames"},
		{kit.ErrNewer, exitUsage, "get that version of blackstart onto this host"},
		{kit.ErrInvalid, exitUsage, "mend what the message names; blackstart kit build --help shows the form"},
		{kit.ErrNotFound, exitUsage, "blackstart kit show DIR prints what a kit holds"},
		{names.ErrBadData, exitUsage, "mend what the message names; named-checkzone says more of a zone file"},
		{names.ErrNoNames, exitUsage, "name a file or a kit that has names"},
		{names.ErrTooLarge, exitUsage, "serve fewer names"},
		{names.ErrNotTaken, exitUsage, "blackstart dns takeover IP comes before"},
		{names.ErrChanged, exitFailed, "look at that file and put it right by hand; everything else is back"},
		{names.ErrConflict, exitFailed, "make sure which host is meant to have it"},
		{names.ErrPresent, exitFailed, "ip address shows it; remove it, or use it as it is"},
		{names.ErrLoop, exitUsage, "name another resolver with --upstream"},
		{errLoop, exitNotRecoverable, "blackstart graph check names the loops, and what would help most"},
		{graph.ErrInvalid, exitUsage, "mend what the message names; blackstart graph --help shows the form"},
		{drill.ErrNotBack, exitNotRecoverable, "blackstart drill score says how it went; the report beside the drill has the recording"},
		{drill.ErrOverdue, exitNotRecoverable, "blackstart drill start FILE practises it"},
		{drill.ErrNoDrill, exitUsage, "blackstart drill history lists them; --store names another place"},
		{drill.ErrBadRecord, exitFailed, "the recording may still be played: asciinema play drill.cast"},
		{drill.ErrFailed, exitNotRecoverable, "the steps' output is above; blackstart sandbox shell shows what they see"},
		{runbooks.ErrInvalid, exitUsage, "mend what the message names; blackstart runbook schema is for your editor"},
		{fetch.ErrPeer, exitVerification, "compare the key with the one that was read out to you: --pin, --ca, or #pin= behind the URL"},
		{recovery.ErrStep, exitFailed, "mend what failed, then: blackstart runbook resume"},
		{recovery.ErrRunning, exitFailed, "blackstart runbook show says where it stands; --take-over stops it and goes on"},
		{recovery.ErrNoCopy, exitUsage, "blackstart access log copies lists them"},
		{recovery.ErrNoRun, exitUsage, "blackstart runbook show --all lists the runs of this host"},
		{recovery.ErrNotHere, exitUsage, "do this step by hand, and go on with: blackstart runbook run --from"},
		{recovery.ErrMachine, exitFailed, "put a blackstart for that machine there, and run its steps there with --only"},
		{sandbox.ErrUnresolved, exitUnresolved, "this run is neither a pass nor a failure; blackstart doctor says what this kernel can do"},
		{sandbox.ErrIncomplete, exitUnresolved, "this run is neither a pass nor a failure, since not everything was seen: run it again"},
		{sandbox.ErrBadCapability, exitUsage, "blackstart sandbox run --help shows the forms"},
		{sandbox.ErrBadOptions, exitUsage, "blackstart sandbox run --help"},
		{recovery.ErrGaps, exitFailed, "blackstart kit repair gets what this host lacks; name more places with --source"},
		{fetch.ErrPlace, exitUsage, "blackstart fetch get --help shows what a source looks like"},
		{fetch.ErrName, exitUsage, "names are never looked up: give the address with --resolve NAME=IP"},
		{fetch.ErrVerification, exitVerification, "every source gave wrong bytes: name another with --source"},
		{fetch.ErrNoSource, exitFailed, "name another place with --source; blackstart kit audit says what is where"},
		{fetch.ErrNotFound, exitFailed, "name a source that has it with --source"},
		{certs.ErrRefused, exitDenied, "a token counts once; else certs show CEREMONY prints what the authority may certify, and the session's --policy narrows it"},
		{certs.ErrShares, exitVerification, "each share counts once, and only those of this ceremony: --identity and --share name more"},
		{certs.ErrSealed, exitVerification, "name the key of somebody it is sealed to: --identity FILE"},
		{certs.ErrToken, exitDenied, "blackstart certs token makes another one"},
		{certs.ErrExpired, exitFailed, "blackstart certs open CEREMONY opens a session; certs show says until when the authority issues"},
		{certs.ErrUnguarded, exitUnresolved, "become root, or go on without it: --unguarded"},
		{certs.ErrChanged, exitFailed, "look at that file and put it right by hand"},
		{certs.ErrInvalid, exitUsage, "mend what the message names; blackstart certs show FILE says what a file is"},
		{access.ErrApproval, exitDenied, "blackstart access grants says what is missing"},
		{access.ErrUnsigned, exitVerification, "have the owner sign that file: ssh-keygen -Y sign -n blackstart-access -f KEY FILE; or leave the service out of it"},
		{access.ErrContradiction, exitUsage, "take one of the two lines out"},
		{access.ErrInvalid, exitUsage, "mend the line that the message names; blackstart access --help shows the form"},
		{journal.ErrTampered, exitVerification, "compare it with a copy or a checkpoint that lies elsewhere: blackstart access log FILE --verify --checkpoint FILE"},
		{unix.ENOSPC, exitFailed, "free space, or put the data elsewhere with --data DIR; nothing half-made stays"},
	}
}

type outcome struct {
	err  error
	code int
	hint string
}

// report prints an error with its hint and returns the exit code. An error that
// carries the status of a command that was run prints nothing: that command has
// said what there was to say.
func report(w io.Writer, err error) int {
	code, hint := exit(err)
	if hint != "" {
		fmt.Fprintf(w, "blackstart: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n  "))
		fmt.Fprintf(w, "  next: %s\n", hint)
	}
	return code
}

// exit is the code of an error, and the hint; "" where nothing is to be said.
func exit(err error) (code int, hint string) {
	var status cli.ExitCoder
	if err == nil {
		return exitDone, ""
	}
	if errors.As(err, &status) {
		return status.ExitCode(), ""
	}
	for _, o := range outcomes() {
		if errors.Is(err, o.err) {
			return o.code, o.hint
		}
	}
	return exitFailed, "blackstart doctor says what this host can do"
}
