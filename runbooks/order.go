package runbooks

// layers puts what follows nothing in wave 0, what follows only wave 0 in wave 1, and so on. stuck is what is in a
// cycle or behind one.
func layers(after [][]int) (wave []int, stuck []int) {
	wave = make([]int, len(after))
	left := make([]int, len(after))
	next := make([][]int, len(after))
	var ready []int
	for i, on := range after {
		left[i] = len(on)
		if len(on) == 0 {
			ready = append(ready, i)
		}
		for _, j := range on {
			next[j] = append(next[j], i)
		}
	}
	done := 0
	for ; done < len(ready); done++ {
		i := ready[done]
		for _, j := range next[i] {
			wave[j] = max(wave[j], wave[i]+1)
			if left[j]--; left[j] == 0 {
				ready = append(ready, j)
			}
		}
	}
	if done < len(after) {
		for i := range after {
			if left[i] > 0 {
				stuck = append(stuck, i)
			}
		}
	}
	return wave, stuck
}

// shortestLoop finds a shortest cycle among what is stuck, each followed by what it follows. It looks from every
// node breadth first, so it costs the number of nodes times the number of edges at worst.
func shortestLoop(after [][]int, stuck []int) []int {
	var best []int
	from := make([]int, len(after))
	for _, start := range stuck {
		for i := range from {
			from[i] = -1
		}
		queue := []int{start}
		for k := 0; k < len(queue); k++ {
			i := queue[k]
			for _, j := range after[i] {
				if j == start {
					loop := []int{}
					for at := i; at != start; at = from[at] {
						loop = append([]int{at}, loop...)
					}
					loop = append([]int{start}, loop...)
					if best == nil || len(loop) < len(best) {
						best = loop
					}
					k = len(queue)
					break
				}
				if from[j] < 0 {
					from[j] = i
					queue = append(queue, j)
				}
			}
		}
		if len(best) == 1 {
			break
		}
	}
	return best
}
