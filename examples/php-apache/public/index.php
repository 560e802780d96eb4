<?php
echo "hello from ", getenv("PS"), " on PHP ", PHP_VERSION, "\n";
