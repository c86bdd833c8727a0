#!/bin/sh
# A job that says how it goes (docs/status.md): thumbs.sh FILE…   It runs without cronq as well.
# Put off by a full disk or killed, it goes on after the last file that it finished.
say() { if [ -n "$CRONQ_STATUS_FD" ]; then echo "$*" >&3; fi }

done=${CRONQ_CURSOR:-0}
total=$#
shift "$done"
for file; do
    say "status $(basename "$file")"
    if [ -s "$file" ]; then
        head -c 100 "$file" > "$file.thumb"
    else
        say "warning $file is empty"
    fi
    done=$((done + 1))
    say "progress $done/$total"
    say "cursor $done"
done
say "metric files=$total"
say "result $done thumbnails"
