<?php
header("Content-Type: application/json");
echo json_encode(["greeting" => getenv("GREETING"), "from" => getenv("PS"), "on" => "PHP " . PHP_VERSION]), "\n";
