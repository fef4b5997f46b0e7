package main

import (
	"fmt"

	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/baseline"
	"github.com/spf13/cobra"
)

func newEnergyCommand() *cobra.Command {
	return newGroup("energy", "Estimate what a device draws that has no power sensor",
		"A model of the manufacturer, signed in the manifest, estimates power from CPU time and traffic.",
		newEnergyCalibrateCommand())
}

func newEnergyCalibrateCommand() *cobra.Command {
	var processors int
	var meterFile string
	var asJSON bool
	c := &cobra.Command{
		Use:   "calibrate RECORDING... --processors N",
		Short: "Fit an energy model to recordings and a power meter",
		Long: `Fits a model of what the device draws to recordings, by least squares: idle, a
second of a processor's time, and a byte received or sent. Prints the line for the
manifest, with the error of the model.

Power comes from --meter, lines "Unix seconds,mW" of a meter whose clock is right, or
from energy.power where the recorded device has a sensor that others of its model
lack. Load the processors and the network in steps while you record: what did not
vary cannot be told.`,
		Example: `  factsctl record --out load.jsonl --for 10m
  factsctl energy calibrate load.jsonl --processors 4 --meter meter.csv`,
		Args: cobra.MinimumNArgs(1),
	}
	c.Flags().IntVar(&processors, "processors", 0, "`number` of processors of the recorded device")
	c.Flags().StringVar(&meterFile, "meter", "", "`file` with what a power meter showed")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: one object")
	required(c, "processors")
	c.RunE = func(c *cobra.Command, args []string) error {
		if processors < 1 || processors > 1024 {
			return fail(exitUsage, "give 1 to 1024", "%d processors", processors)
		}
		var recs []*baseline.Recording
		for _, name := range args {
			rec, err := loadRecording(c, name)
			if err != nil {
				return err
			}
			recs = append(recs, rec)
		}
		var meter []baseline.MeterSample
		if meterFile != "" {
			data, err := read(c, meterFile, baseline.MaxSize)
			if err != nil {
				return err
			}
			if meter, err = baseline.ParseMeter(data); err != nil {
				return fail(exitUsage, "give lines \"Unix seconds,mW\"", "%s: %w", meterFile, err)
			}
		}
		fit, err := baseline.Calibrate(recs, processors, meter)
		if err != nil {
			return fail(exitRefused, "record longer, with the processors and the network loaded in steps", "%w", err)
		}
		if asJSON {
			return printJSON(c.OutOrStdout(), struct {
				Idle    uint32  `json:"idle_mw"`
				CPU     uint32  `json:"cpu_mj_per_s"`
				Network uint32  `json:"network_nj_per_byte"`
				Error   uint32  `json:"error_permille"`
				Points  int     `json:"rounds"`
				Mean    float64 `json:"mean_mw"`
				RMS     float64 `json:"rms_mw"`
			}{fit.Model.Idle, fit.Model.CPU, fit.Model.Network, fit.Model.Error, fit.Points, fit.Mean, fit.RMS})
		}
		note(c, "%d rounds, mean %.0f mW, root mean square error %.0f mW", fit.Points, fit.Mean, fit.RMS)
		_, err = fmt.Fprint(c.OutOrStdout(), reference.EnergyText(&fit.Model))
		return err
	}
	return c
}
