#!/bin/sh
# Takes jobs until told to stop, then finishes the one at hand.
trap 'echo "worker $PS: finishing"; exit 0' TERM
job=0
echo "worker $PS: started"
while :; do
  job=$((job + 1))
  echo "worker $PS: job $job done"
  sleep "${JOB_SECONDS:-2}" & wait $!
done
