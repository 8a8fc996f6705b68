package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery/graph"
)

// errLoop is returned where not everything can be brought back.
var errLoop = errors.New("not everything can be brought back")

func cmdGraph() *cli.Command {
	return &cli.Command{
		Name: "graph", Usage: "what must come back first, and what never can",
		Description: `Each team writes down the first hop of its own service; put together, those hops show the loop
that an outage would find:

   services:
     - {name: zk, tier: 1, owner: coordination-oncall, managed_by: cluster-scheduler,
        needs: [network], provides: [coordination], runbook: zk.yaml, takes: 4m}

   blackstart graph check services/ proofs/
   blackstart graph order services/ --lost zk,cluster-scheduler
   blackstart graph simulate services/
   blackstart graph render services/ --format html > graph.html`,
		Subcommands:     []*cli.Command{graphCheck(), graphOrder(), graphSimulate(), graphRender(), graphDiff(), graphImport()},
		HideHelpCommand: true,
		Before: func(*cli.Context) error {
			debug.SetMemoryLimit(graphMemory)
			return nil
		},
	}
}

// graphMemory is the bytes above which memory is saved at the cost of time. A graph of a million edges is below.
const graphMemory = 768 << 20

func graphFlags() []cli.Flag {
	const quarter = 90 * 24 * time.Hour
	return []cli.Flag{
		&cli.BoolFlag{Name: "observed", Usage: "what was seen in use counts as needed"},
		&cli.DurationFlag{Name: "max-age", Value: quarter, Usage: "`TIME` after which a proof is stale"},
	}
}

func checkOptions(c *cli.Context) graph.CheckOptions {
	return graph.CheckOptions{Now: time.Now(), MaxAge: c.Duration("max-age"), Observed: c.Bool("observed")}
}

func graphCheck() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "say whether everything can be brought back from nothing", ArgsUsage: "DIR|FILE|KIT...",
		Description: `Exit status 0: yes, from hardware, this program and safe storage. 3: no, and the shortest loops are
told, with where each of their edges comes from. What else is wrong is told as well: services that
wait for a higher tier, proofs that are missing, stale or of another runbook, single points, and
what one change would unlock most. The proofs that rehearse and pare write are read like any file.
A kit counts with its services, capabilities and runbooks.`,
		Flags: append([]cli.Flag{outputFlag()}, graphFlags()...),
		Action: func(c *cli.Context) error {
			g, err := readGraph(c, c.Args().Slice())
			if err != nil {
				return err
			}
			r := graph.Check(g, checkOptions(c))
			if err := result(c, r, func(w io.Writer) error { return writeReport(w, r) }); err != nil {
				return err
			}
			if !r.Recoverable {
				return fmt.Errorf("%w: %d of %d services are stuck", errLoop, len(r.Stuck), r.Services)
			}
			return nil
		},
	}
}

func graphOrder() *cli.Command {
	return &cli.Command{
		Name: "order", Usage: "the plan for what was lost: waves, owners, runbooks, times", ArgsUsage: "DIR|FILE|KIT...",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "lost", Usage: "`A,B`: services; without it and --region, everything"},
			&cli.StringFlag{Name: "region", Usage: "`R` and all its services"},
			&cli.BoolFlag{Name: "alone", Usage: "what needs the lost stays up"},
			&cli.BoolFlag{Name: "observed", Usage: "what was seen in use counts as needed"},
			&cli.BoolFlag{Name: "runbook", Usage: "write the plan as one runbook that calls the others"},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			g, err := readGraph(c, c.Args().Slice())
			if err != nil {
				return err
			}
			p, err := graph.Order(g, graph.OrderOptions{Lost: words(c.String("lost")), Region: c.String("region"), Alone: c.Bool("alone"), Observed: c.Bool("observed")})
			if err != nil {
				return err
			}
			if c.Bool("runbook") {
				for i, s := range p.Steps {
					if s.Runbook == "" {
						continue
					}
					if p.Steps[i].Runbook, err = filepath.Abs(s.Runbook); err != nil {
						return err
					}
					if _, err := os.Stat(s.Runbook); err != nil {
						return usage("the runbook of %s has to be a file here: %w", s.Service, err)
					}
				}
				what := strings.Join(p.Lost, ", ")
				if r := c.String("region"); r != "" {
					what = strings.Trim(what+", region "+r, ", ")
				}
				if what == "" {
					what = "everything"
				}
				b, err := p.Runbook("recover "+what, "recovery")
				if err != nil {
					return err
				}
				_, err = c.App.Writer.Write(b)
				return err
			}
			if err := result(c, p, func(w io.Writer) error { return writePlan(w, p) }); err != nil {
				return err
			}
			if len(p.Stuck) > 0 {
				return fmt.Errorf("%w: %s", errLoop, strings.Join(p.Stuck, ", "))
			}
			return nil
		},
	}
}

func words(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func graphSimulate() *cli.Command {
	return &cli.Command{
		Name: "simulate", Usage: "play losses: which are recoverable, how long they take, the worst first", ArgsUsage: "DIR|FILE|KIT...",
		Description: `Every single loss, unless --pairs or --lose says otherwise. Exit status 3 where one is not recoverable.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "pairs", Usage: "every pair that is worse than its parts as well"},
			&cli.StringFlag{Name: "among", Usage: "`A,B`: the services that pairs are made of, where there are more than 2000"},
			&cli.StringSliceFlag{Name: "lose", Usage: "`WHAT`: A,B (services), region:R, tier:N or all"},
			&cli.IntFlag{Name: "top", Value: 20, Usage: "`N` outcomes"},
			&cli.BoolFlag{Name: "observed", Usage: "what was seen in use counts as needed"},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			g, err := readGraph(c, c.Args().Slice())
			if err != nil {
				return err
			}
			o := graph.SimulateOptions{Singles: !c.IsSet("lose"), Pairs: c.Bool("pairs"), Among: words(c.String("among")), Observed: c.Bool("observed"), Top: c.Int("top")}
			for _, l := range c.StringSlice("lose") {
				storm := graph.Storm{Name: l, Tier: graph.NoTier}
				switch kind, name, _ := strings.Cut(l, ":"); {
				case l == "all":
					storm.All = true
				case kind == "region":
					storm.Region = name
				case kind == "tier":
					if _, err := fmt.Sscanf(name, "%d", &storm.Tier); err != nil {
						return usage("--lose %s: want tier:N", l)
					}
				default:
					storm.Lost = words(l)
				}
				o.Storms = append(o.Storms, storm)
			}
			sim, err := graph.Simulate(c.Context, g, o)
			if err != nil {
				return err
			}
			if err := result(c, sim, func(w io.Writer) error {
				rows := [][]string{{"LOST", "DOWN", "STUCK", "BACK AFTER", "FOR EXAMPLE"}}
				for _, out := range sim.Outcomes {
					rows = append(rows, []string{printable(out.Name), fmt.Sprint(out.Down), fmt.Sprint(out.Stuck), about(out.Time), printable(strings.Join(out.Example, ", "))})
				}
				return table(w, rows)
			}); err != nil {
				return err
			}
			if sim.Unrecoverable > 0 {
				return fmt.Errorf("%w after %d of %d losses", errLoop, sim.Unrecoverable, sim.Simulated)
			}
			return nil
		},
	}
}

func graphRender() *cli.Command {
	return &cli.Command{
		Name: "render", Usage: "draw it", ArgsUsage: "DIR|FILE|KIT...",
		Flags: append([]cli.Flag{&cli.StringFlag{Name: "format", Value: "html", Usage: "`FORMAT`: html (one page that loads nothing), svg, dot, mermaid or json"}}, graphFlags()...),
		Action: func(c *cli.Context) error {
			format := graph.Format(c.String("format"))
			if !slices.Contains(graph.Formats(), format) {
				return usage("--format %q is none of %v", format, graph.Formats())
			}
			g, err := readGraph(c, c.Args().Slice())
			if err != nil {
				return err
			}
			return graph.Render(c.App.Writer, format, g, checkOptions(c))
		},
	}
}

func graphDiff() *cli.Command {
	return &cli.Command{
		Name: "diff", Usage: "what a change means for recovery, in Markdown for a review", ArgsUsage: "OLD NEW",
		Description: `Exit status 3 where it makes something unrecoverable, closes a loop, or takes a proof away.`,
		Flags:       append([]cli.Flag{outputFlag()}, graphFlags()...),
		Action: func(c *cli.Context) error {
			if c.NArg() != 2 {
				return usage("%s takes two directories or files", c.Command.FullName())
			}
			var both [2]*graph.Graph
			for i := range both {
				var err error
				if both[i], err = readGraph(c, []string{c.Args().Get(i)}); err != nil {
					return err
				}
			}
			d := graph.Compare(both[0], both[1], checkOptions(c))
			if err := result(c, d, func(w io.Writer) error {
				_, err := io.WriteString(w, d.Markdown())
				return err
			}); err != nil {
				return err
			}
			if d.Worse() {
				return fmt.Errorf("%w as well as before", errLoop)
			}
			return nil
		},
	}
}

func graphImport() *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "take services and edges from what exists, as declared or seen, never as proven", ArgsUsage: "DIR|FILE...",
		Flags: []cli.Flag{&cli.StringFlag{Name: "from", Required: true, Usage: "`FORMAT`: kubernetes, systemd, compose, nomad, terraform or opentelemetry"}},
		Action: func(c *cli.Context) error {
			format := graph.ImportFormat(c.String("from"))
			if !slices.Contains(graph.ImportFormats(), format) {
				return usage("--from %q is none of %v", format, graph.ImportFormats())
			}
			if !c.Args().Present() {
				return usage("%s takes files and directories", c.Command.FullName())
			}
			files, err := graphFiles(c.Args().Slice(), graphEndings(format))
			if err != nil {
				return err
			}
			services, err := graph.Import(format, files...)
			if err != nil {
				return err
			}
			return graph.Render(c.App.Writer, graph.JSON, graph.New(services), graph.CheckOptions{})
		},
	}
}
