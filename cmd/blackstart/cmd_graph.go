package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery"
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

const (
	graphMemory   = 768 << 20 // bytes, above which memory is saved at the cost of time: a graph of a million edges is below
	maxGraphFile  = 16 << 20  // bytes
	maxGraphFiles = 100_000
	mostEdges     = 12 // of a loop that are told one by one
)

// graphEndings are of the files that count below a directory.
func graphEndings(f graph.ImportFormat) []string {
	switch f {
	case graph.Systemd:
		return []string{".service", ".socket", ".target", ".timer", ".path", ".mount", ".automount", ".swap", ".conf"}
	case graph.Nomad, graph.OpenTelemetry:
		return []string{".json"}
	case graph.Terraform:
		return []string{".dot", ".gv"}
	case graph.Kubernetes:
		return []string{".yaml", ".yml", ".json", ".manifest"}
	case graph.Compose:
	}
	return []string{".yaml", ".yml", ".json"}
}

// graphFiles reads files that are named, whatever they are called, and those below
// directories with one of the endings.
func graphFiles(paths, endings []string) ([]graph.File, error) {
	var files []graph.File
	add := func(path string) error {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		if st.Size() > maxGraphFile || len(files) == maxGraphFiles {
			return usage("%s: %d bytes, at most %d; at most %d files", path, st.Size(), maxGraphFile, maxGraphFiles)
		}
		b, err := os.ReadFile(path)
		files = append(files, graph.File{Name: path, Data: b})
		return err
	}
	for _, p := range paths {
		err := filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case !d.Type().IsRegular() && path != p, d.IsDir():
				return nil
			case path != p && !slices.Contains(endings, filepath.Ext(path)):
				return nil
			}
			return add(path)
		})
		if errors.Is(err, fs.ErrNotExist) {
			err = usage("%w", err)
		}
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

func readGraph(c *cli.Context, paths []string) (*graph.Graph, error) {
	if len(paths) == 0 {
		return nil, usage("%s takes files, directories and kits", c.Command.FullName())
	}
	var files []graph.File
	var plain []string
	for _, p := range paths {
		if _, err := os.Stat(filepath.Join(p, ocispec.ImageLayoutFile)); err != nil {
			plain = append(plain, p)
			continue
		}
		s, err := bareSite(c)
		if err != nil {
			return nil, err
		}
		of, err := s.KitGraph(recovery.KitOptions{Dir: p})
		if err != nil {
			return nil, err
		}
		files = append(files, of...)
	}
	more, err := graphFiles(plain, graphEndings(""))
	if err != nil {
		return nil, err
	}
	return graph.Read(append(files, more...)...)
}

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

func writeReport(w io.Writer, r graph.Report) error {
	for _, l := range r.Loops {
		fmt.Fprintf(w, "loop        %s\n", printable(l.Sentence()))
		for _, e := range l.Edges[:min(len(l.Edges), mostEdges)] {
			fmt.Fprintf(w, "            %s: %s\n", printable(e.String()), printable(e.Evidence()))
		}
		if n := len(l.Edges) - mostEdges; n > 0 {
			fmt.Fprintf(w, "            and %d more edges: --output json has them\n", n)
		}
	}
	if len(r.Jumpstart) > 0 {
		fmt.Fprintf(w, "way out     recovery containers for %s together break every loop\n", printable(strings.Join(r.Jumpstart, ", ")))
	}
	for _, m := range r.Missing {
		fmt.Fprintf(w, "missing     %s needs %s, which nobody provides (%s)\n", printable(m.Service), printable(m.Need.String()), printable(graph.Edge{Need: m.Need}.Evidence()))
	}
	for _, v := range r.Inversions {
		fmt.Fprintf(w, "inversion   %s (%s)\n", printable(v.String()), printable(v.Evidence()))
	}
	for _, v := range r.Undeclared {
		fmt.Fprintf(w, "undeclared  %s (%s)\n", printable(v.String()), printable(graph.Edge{Need: v.Need}.Evidence()))
	}
	for _, v := range r.Unproven {
		fmt.Fprintf(w, "unproven    %s: %s\n", printable(v.Service), printable(v.Why))
	}
	for _, v := range r.Single {
		fmt.Fprintf(w, "single      without %s, %d others never come back\n", printable(v.Service), v.Loses)
	}
	for _, v := range r.Unlock {
		fmt.Fprintf(w, "would help  %s\n", printable(v.String()))
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "problem     %s (%s)\n", printable(p.Message), printable(places(p.At, p.Other)))
	}
	_, err := fmt.Fprintf(w, "%d services, %d edges, %d waves; %d stuck\n", r.Services, r.Edges, len(r.Waves), len(r.Stuck))
	return err
}

// places are those of a problem.
func places(at ...graph.Position) string {
	var all []string
	for _, p := range at {
		if p.File != "" {
			all = append(all, fmt.Sprintf("%s:%d", p.File, p.Line))
		}
	}
	return strings.Join(all, ", ")
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

func writePlan(w io.Writer, p graph.Plan) error {
	rows := [][]string{{"WAVE", "SERVICE", "OWNER", "RUNBOOK", "TAKES", "BACK AFTER"}}
	for _, s := range p.Steps {
		name := printable(s.Service)
		if s.Critical {
			name += " *"
		}
		rows = append(rows, []string{fmt.Sprint(s.Wave), name, printable(s.Owner), printable(s.Runbook), about(s.Takes.Likely) + " " + string(s.Takes.Source), about(s.Finish)})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	for _, l := range p.Loops {
		fmt.Fprintf(w, "loop: %s\n", printable(l.Sentence()))
	}
	_, err := fmt.Fprintf(w, "likely back after %s (%s to %s); %d times are guessed; * is what the end waits for\n", about(p.Time.Likely), about(p.Time.Low), about(p.Time.High), p.Guessed)
	return err
}

// about drops what nobody needs to know of a time.
func about(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func graphSimulate() *cli.Command {
	return &cli.Command{
		Name: "simulate", Usage: "play losses: which are recoverable, how long they take, the worst first", ArgsUsage: "DIR|FILE|KIT...",
		Description: `Every single loss, unless --pairs or --lose says otherwise. Exit status 3 where one is not recoverable.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "pairs", Usage: "every pair as well"},
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
			o := graph.SimulateOptions{Singles: !c.IsSet("lose"), Pairs: c.Bool("pairs"), Observed: c.Bool("observed"), Top: c.Int("top")}
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
