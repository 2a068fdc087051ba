package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Spec is one input or output of the signature; a size of its shape is a number or the name of an axis.
type Spec struct {
	Name  string `json:"name"`
	Dtype string `json:"dtype"`
	Shape []any  `json:"shape"`
}

// Task is what is asked: the model file, the device, the threads, the inputs in order and the
// outputs.
type Task struct {
	Artifact, Device, Dtype string
	Threads                 int // to compute with
	Inputs                  []Spec `json:"inputs"`
	Outputs                 []Spec `json:"outputs"`
}

// Model runs case by case. Facts are version, provider, device and dtype.
type Model interface {
	Open(task Task) error
	Run(inputs map[string]Tensor) (map[string]Tensor, error)
	Facts() map[string]string
}

// errDevice says that the device that was asked for cannot be used.
var errDevice = errors.New("E_DEVICE")

// runner runs a model from the command line (docs/runners.md); a failure is one line on standard error.
func runner(name string, model Model) {
	artifact := flag.String("artifact", "", "the model file")
	inputs := flag.String("inputs", "", "the file of cases")
	outputs := flag.String("outputs", "", "the file to write")
	device := flag.String("device", "cpu", "the device to use")
	tokenizer := flag.String("tokenizer", "", "not for this runner: it takes no texts")
	flag.Parse()
	if *tokenizer != "" {
		fmt.Fprintf(os.Stderr, "%s: it takes no texts\n", name)
		os.Exit(1)
	}
	err := serve(name, model, Task{Artifact: *artifact, Device: *device}, *inputs, *outputs)
	if err == nil {
		return
	}
	line := strings.Join(strings.Fields(err.Error()), " ")
	if errors.Is(err, errDevice) {
		fmt.Fprintf(os.Stderr, "%s; use --device cpu\n", line)
		os.Exit(5)
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", name, line)
	os.Exit(1)
}

func serve(name string, model Model, task Task, inputs, outputs string) error {
	tensors, metadata, err := readSafetensors(inputs)
	if err != nil {
		return err
	}
	task.Dtype, task.Threads = metadata["dtype"], runtime.NumCPU()
	if text, there := metadata["threads"]; there {
		if task.Threads, err = strconv.Atoi(text); err != nil {
			return fmt.Errorf("threads: %w", err)
		}
	}
	if err := json.Unmarshal([]byte(metadata["signature"]), &task); err != nil {
		return fmt.Errorf("the signature: %w", err)
	}
	if err := model.Open(task); err != nil {
		return err
	}
	made, seconds := map[string]Tensor{}, map[string]float64{}
	for named, given := range cases(tensors) {
		axes := map[string]int64{}
		for _, spec := range task.Inputs {
			tensor, there := given[spec.Name]
			if !there {
				return fmt.Errorf("case %s lacks the input %s", named, spec.Name)
			}
			if err := check(spec, tensor, axes); err != nil {
				return err
			}
		}
		started := time.Now()
		results, err := model.Run(given)
		if err != nil {
			return err
		}
		seconds[named] = time.Since(started).Seconds()
		for _, spec := range task.Outputs {
			if tensor, there := results[spec.Name]; there {
				if err := check(spec, tensor, axes); err != nil {
					return err
				}
			}
		}
		for output, tensor := range results {
			made[named+"/"+output] = tensor
		}
	}
	taken, err := json.Marshal(seconds)
	if err != nil {
		return err
	}
	facts := model.Facts()
	facts["runtime"], facts["seconds"], facts["threads"] = name, string(taken), strconv.Itoa(task.Threads)
	return writeSafetensors(outputs, made, facts)
}

// cases groups tensors called <case>/<tensor>.
func cases(tensors map[string]Tensor) map[string]map[string]Tensor {
	found := map[string]map[string]Tensor{}
	for key, tensor := range tensors {
		name, input, _ := strings.Cut(key, "/")
		if found[name] == nil {
			found[name] = map[string]Tensor{}
		}
		found[name][input] = tensor
	}
	return found
}

// check compares a tensor with its spec; a named axis has one size within a case, which axes remembers.
func check(spec Spec, tensor Tensor, axes map[string]int64) error {
	if tensor.Dtype != spec.Dtype {
		return fmt.Errorf("%s is %s where %s is claimed", spec.Name, tensor.Dtype, spec.Dtype)
	}
	if len(spec.Shape) == 0 { // not stated
		return nil
	}
	expected := slices.Clone(tensor.Shape)
	for i := range min(len(spec.Shape), len(expected)) {
		switch size := spec.Shape[i].(type) {
		case float64:
			expected[i] = int64(size)
		case string:
			if known, there := axes[size]; there {
				expected[i] = known
			}
			axes[size] = expected[i]
		}
	}
	if len(spec.Shape) != len(tensor.Shape) || !slices.Equal(expected, tensor.Shape) {
		return fmt.Errorf("%s has shape %v, which its signature %v does not allow", spec.Name, tensor.Shape, spec.Shape)
	}
	return nil
}
