# The project's commands on Windows (PowerShell 5.1 and 7); the Makefile has the same ones. `.\build.ps1 help` lists them.
param([Parameter(Position = 0)][string]$Command = 'help')

$ErrorActionPreference = 'Stop'
Set-Location -Path $PSScriptRoot
$Venv = '.venv'
$Compose = @('compose', '-f', 'infra/docker-compose.yml')
$OnWindows = $env:OS -eq 'Windows_NT'

$Help = [ordered]@{
    'help'          = 'List the commands'
    'setup'         = 'Make .venv with everything that the API and the local model need'
    'run'           = 'Start the API (API_HOST, API_PORT; http://localhost:8000)'
    'dev-api'       = 'The same as run'
    'dev-services'  = 'Start Redis in Docker, for several API processes that share their limits'
    'test'          = 'Linters, types, import floors and the tests, on every core'
    'test-clients'  = 'Real clients against the service, Python''s and JavaScript''s'
    'peer-suites'   = 'Other servers'' API tests from LLAMA_CPP_TESTS and VLLM_TESTS, folders that hold them; reports/'
    'test-long'     = 'Soaks, storms, kills, fuzzing and bombs with their full budgets'
    'smoke'         = 'Run eval/cases over HTTP (BASE_URL, or a server of its own); reports/smoke.html'
    'bench-gateway' = 'Measure the gateway against a bare one; reports/'
    'bench-local'   = 'Measure the local model''s speed, with llama.cpp and OpenVINO beside it; reports/'
    'attacks'       = 'Attack a service and print what each attack cost; reports/attacks.json'
    'mutants'       = 'Change some code: do the tests notice? reports/mutants.json'
    'bench-fleet'   = 'Measure replicas of the local model and several workers, on a quiet machine; reports/'
    'soak'          = 'Half an hour of traffic with faults: does the service grow? reports/soak.json'
    'eval-local'    = 'Measure the local model''s quality at each precision; reports/'
    'eval-rag'      = 'Measure retrieval from documents: its quality and its speed; reports/'
    'console-speed' = 'Ten minutes of a fast answer in Chromium: frames, first paint, memory; reports/console_speed.json'
    'pictures'      = 'Photograph the console, /docs, README.md and genai; draw the plots; reports/pictures/'
    'compose-up'    = 'Build the image and start it in Docker'
    'compose-down'  = 'Stop what compose-up and dev-services started'
    'lint'          = 'Linters, types and import floors'
    'lock'          = 'Write the lock files anew from the requirements (UPGRADE=1 takes newer versions)'
    'sbom'          = 'Write the bill of materials (CycloneDX) and the list of licences; reports/'
    'coverage'      = 'Measure which lines and branches of apps/ the tests run, the long ones too; reports/coverage/index.html'
    'clean'         = 'Remove .venv, caches and reports'
}

function Invoke-Checked([string]$Program, [string[]]$Arguments) {
    & $Program @Arguments
    if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
}

function Invoke-Python([string[]]$Arguments) {
    if ($OnWindows) { $Python = Join-Path $Venv 'Scripts/python.exe' } else { $Python = Join-Path $Venv 'bin/python' }
    Invoke-Checked $Python $Arguments
}

# A command and its own arguments. The launcher comes first: `python` may be a stub that opens the Microsoft Store.
function Find-Python {
    if ($env:PYTHON) { return $env:PYTHON }
    if (Get-Command 'py' -ErrorAction SilentlyContinue) { return @('py', '-3') }
    foreach ($Name in @('python', 'python3')) {
        if (Get-Command $Name -ErrorAction SilentlyContinue) { return $Name }
    }
    Write-Host 'No Python here: install Python 3.11 or newer, or set $env:PYTHON'
    exit 1
}

# True where a stamp is missing or older than one of the files it stands for.
function Test-Stale([string]$Stamp, [string[]]$Sources) {
    if (-not (Test-Path $Stamp)) { return $true }
    $Made = (Get-Item $Stamp).LastWriteTimeUtc
    foreach ($Source in $Sources) {
        if ((Get-Item $Source).LastWriteTimeUtc -gt $Made) { return $true }
    }
    return $false
}

function Invoke-Setup {
    $Kernels = 'apps/local/engine/kernel'
    $Sources = @('requirements.lock', 'requirements-local.lock', 'infra/install.py', 'infra/packages.py')
    $Sources += @(Get-ChildItem -Path "$Kernels/build.py", "$Kernels/*.h", "$Kernels/*.cpp" -ErrorAction SilentlyContinue |
        ForEach-Object { $_.FullName })
    if (-not (Test-Stale "$Venv/.setup" $Sources)) { return }
    if (-not (Test-Path "$Venv/pyvenv.cfg")) {
        $Base, $Given = @(Find-Python)
        $Given = @($Given | Where-Object { $_ })
        & $Base @Given -c 'import sys; sys.exit(sys.version_info < (3, 11))'
        if ($LASTEXITCODE -ne 0) {
            Write-Host "Python 3.11 or newer is needed and $Base $Given is older: choose one with `$env:PYTHON"
            exit 1
        }
        Invoke-Checked $Base ($Given + @('-m', 'venv', $Venv))
    }
    $TorchIndex = $env:TORCH_INDEX_URL
    if ($null -eq $TorchIndex) { $TorchIndex = 'https://download.pytorch.org/whl/cpu' }
    Invoke-Python @('infra/install.py', "--torch-index=$TorchIndex")
    Set-Content -Path "$Venv/.setup" -Value ''
}

function Invoke-Dev {
    Invoke-Setup
    if (-not (Test-Stale "$Venv/.dev" @("$Venv/.setup", 'requirements-dev.lock'))) { return }
    Invoke-Python @('infra/install.py', '--dev')
    Set-Content -Path "$Venv/.dev" -Value ''
}

function Invoke-Clients {
    Invoke-Python @('-m', 'pip', 'install', '-r', 'requirements-clients.txt')
    $Sources = 'apps/api/tests/clients'
    # the clients of other projects have environments of their own: their packages and ours do not go together
    Invoke-Python @('-m', 'venv', '.cache/clients/python')
    $Pip = @('-m', 'pip', 'install', '-q', '--no-deps', '-r', "$Sources/python/requirements.txt")
    Invoke-Checked '.cache/clients/python/Scripts/python.exe' $Pip
    # it wants older versions than the others, and no Python newer than 3.12
    Invoke-Python @('-m', 'venv', '.cache/clients/aider')
    $Newer = & '.cache/clients/aider/Scripts/python.exe' '-c' 'import sys; print(sys.version_info > (3, 13))'
    if ($Newer -eq 'True') { Write-Host 'aider takes no Python newer than 3.12: it is left out' }
    else {
        $Aider = @('-m', 'pip', 'install', '-q', '--no-deps', '-r', "$Sources/python/aider.txt")
        Invoke-Checked '.cache/clients/aider/Scripts/python.exe' $Aider
    }
    if (Get-Command npm -ErrorAction SilentlyContinue) {
        $null = New-Item -ItemType Directory -Force '.cache/clients/javascript'
        Copy-Item "$Sources/javascript/package*.json" '.cache/clients/javascript'
        Invoke-Checked 'npm' @('ci', '--prefix', '.cache/clients/javascript', '--no-audit', '--no-fund')
    }
}

# what the local model is measured beside; without it, the benchmark says what is missing
function Invoke-LocalPeers {
    try {
        Invoke-Python @('-m', 'uv', 'venv', '-q', '--allow-existing', '.cache/peers')
        $Into = @('-m', 'uv', 'pip', 'install', '-q', '--python', '.cache/peers/Scripts/python.exe', '--no-deps')
        Invoke-Python ($Into + @('-r', 'eval/local_peers/requirements.txt'))
    } catch {
        Write-Warning $_
    }
}

function Invoke-Peers {
    if ($env:LLAMA_CPP_TESTS) { Invoke-Python @('-m', 'eval.peer_suites', 'llama.cpp', $env:LLAMA_CPP_TESTS) }
    if ($env:VLLM_TESTS) { Invoke-Python @('-m', 'eval.peer_suites', 'vllm', $env:VLLM_TESTS) }
}

function Invoke-Lint {
    Invoke-Dev
    Invoke-Python @('-m', 'ruff', 'check')
    Invoke-Python @('-m', 'ruff', 'format', '--check')
    Invoke-Python @('-m', 'mypy')
    Invoke-Python @('-c', 'from importlinter.cli import lint_imports_command; lint_imports_command()')
}

# apps/tests/plugin.py says how many workers; one that has nothing left to do takes tests from the others.
function Invoke-Tests([string]$Marks) {
    Invoke-Python @('-m', 'pytest', '-n', 'auto', '--dist', 'worksteal', '-m', $Marks, '--durations=10')
}

function Invoke-Lock {
    if ($env:UPGRADE) { Invoke-Python @('infra/lock.py', '--upgrade') } else { Invoke-Python @('infra/lock.py') }
}

function Invoke-Coverage {
    if (-not $env:TEST_BUDGETS) { $env:TEST_BUDGETS = 'short' }
    # there are no forks to follow, and coverage refuses to
    if ($OnWindows) { $env:COVERAGE_FORKS = '_exit' }
    Invoke-Python @('-m', 'coverage', 'erase')
    Invoke-Python @('-m', 'coverage', 'run', '-m', 'pytest', '-n', 'auto', '--dist', 'worksteal', '-m', 'not clients')
    Invoke-Python @('-m', 'coverage', 'combine', '-q')
    Invoke-Python @('-m', 'coverage', 'html', '-q', '-d', 'reports/coverage')
    Invoke-Python @('-m', 'coverage', 'report', '--skip-covered', '--fail-under=95')
}

function Clear-Project {
    $Caches = @($Venv, '.mypy_cache', '.ruff_cache', '.pytest_cache', '.hypothesis', '.import_linter_cache', '.cache')
    foreach ($Path in $Caches) {
        if (Test-Path $Path) { Remove-Item -Recurse -Force $Path }
    }
    Get-ChildItem -Path 'apps', 'eval', 'infra' -Recurse -Directory -Filter '__pycache__' | Remove-Item -Recurse -Force
    Get-ChildItem -Path 'reports' -Exclude '.gitkeep' | Remove-Item -Recurse -Force
}

function Show-Help {
    foreach ($Name in $Help.Keys) { Write-Host ('  {0,-14} {1}' -f $Name, $Help[$Name]) }
}

switch ($Command) {
    'help' { Show-Help }
    'setup' { Invoke-Setup }
    'run' { Invoke-Setup; Invoke-Python @('-m', 'apps.api.src.main') }
    'dev-api' { Invoke-Setup; Invoke-Python @('-m', 'apps.api.src.main') }
    'dev-services' { Invoke-Checked 'docker' ($Compose + @('--profile', 'services', 'up', '-d', 'redis')) }
    'test' { Invoke-Lint; Invoke-Tests 'not long and not clients' }
    'test-clients' { Invoke-Dev; Invoke-Clients; Invoke-Tests 'clients' }
    'peer-suites' { Invoke-Dev; Invoke-Clients; Invoke-Peers }
    'test-long' { Invoke-Dev; Invoke-Tests 'long' }
    'smoke' { Invoke-Dev; Invoke-Python @('-m', 'eval.smoke') }
    'bench-gateway' { Invoke-Dev; Invoke-Python @('-m', 'eval.bench_gateway') }
    'bench-local' { Invoke-Dev; Invoke-LocalPeers; Invoke-Python @('-m', 'eval.bench_local') }
    'attacks' { Invoke-Dev; Invoke-Python @('-m', 'eval.attacks') }
    'mutants' { Invoke-Dev; Invoke-Python @('-m', 'eval.mutants') }
    'bench-fleet' { Invoke-Dev; Invoke-Python @('-m', 'eval.bench_fleet') }
    'soak' { Invoke-Dev; Invoke-Python @('-m', 'eval.soak') }
    'eval-local' { Invoke-Dev; Invoke-Python @('-m', 'eval.local_quality') }
    'eval-rag' { Invoke-Dev; Invoke-Python @('-m', 'eval.rag_eval') }
    'console-speed' { Invoke-Dev; Invoke-Python @('-m', 'eval.console_speed') }
    'pictures' { Invoke-Dev; Invoke-Python @('-m', 'eval.pictures') }
    'compose-up' { Invoke-Checked 'docker' ($Compose + @('up', '-d', '--build')) }
    'compose-down' { Invoke-Checked 'docker' ($Compose + @('--profile', 'services', 'down')) }
    'lint' { Invoke-Lint }
    'lock' { Invoke-Dev; Invoke-Lock }
    'sbom' { Invoke-Dev; Invoke-Python @('infra/sbom.py') }
    'coverage' { Invoke-Dev; Invoke-Coverage }
    'clean' { Clear-Project }
    default {
        Write-Host "There is no command '$Command'."
        Show-Help
        exit 2
    }
}
