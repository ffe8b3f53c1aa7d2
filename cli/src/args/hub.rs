//! Arguments of the commands that talk to a hub.

use std::path::PathBuf;

use clap::Args;

/// `strata pull`
#[derive(Debug, Args)]
pub struct Pull {
    /// The repository, with a branch, tag or commit behind the @ [default: main]; datasets/ in front for a data set
    #[arg(value_name = "OWNER/NAME[@REV]")]
    pub repo: String,
    /// Only files whose path is like this ("*.json", "unet/"; * also stands for slashes); several times: any of them
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Also copy the files into this folder, under their paths
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// OWNER/NAME is a data set
    #[arg(long)]
    pub dataset: bool,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// `strata push`
#[derive(Debug, Args)]
pub struct Push {
    /// A run, or a folder or weight file of a model
    #[arg(value_name = "RUN|FILE")]
    pub run: PathBuf,
    /// The repository, with a branch behind the @ [default: main]; it is created where there is none
    #[arg(value_name = "OWNER/NAME[@BRANCH]")]
    pub repo: String,
    /// Create the repository as a private one
    #[arg(long)]
    pub private: bool,
    /// Numbers for the model card, as `strata eval --json` answers; several times: all of them
    #[arg(long, value_name = "FILE.json")]
    pub metrics: Vec<PathBuf>,
    /// Licence of the weights, for the model card
    #[arg(long, value_name = "NAME")]
    pub license: Option<String>,
    /// What the commit is called
    #[arg(long, value_name = "TEXT", default_value = "Upload with strata")]
    pub message: String,
    /// Only write what would be uploaded into this folder
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
}
